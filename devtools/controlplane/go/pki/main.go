// Command pki makes the keys of a control plane that lives for one test run: a certificate
// authority, the API server's certificate for loopback and for the names and addresses that are
// given, and the key that signs ServiceAccount tokens. In Go, because the toolchain is there anyway
// and openssl may not be.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "pki:", err)
		os.Exit(1)
	}
}

func save(path, kind string, der []byte) {
	check(os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

func newKey(directory, name string) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	private, err := x509.MarshalECPrivateKey(key)
	check(err)
	save(filepath.Join(directory, name+".key"), "EC PRIVATE KEY", private)
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	check(err)
	save(filepath.Join(directory, name+".pub"), "PUBLIC KEY", public)
	return key
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: pki DIRECTORY [NAME-OR-ADDRESS...]")
		os.Exit(2)
	}
	directory := os.Args[1]
	start := time.Now().Add(-time.Hour)
	end := start.Add(30 * 24 * time.Hour)

	newKey(directory, "sa")
	authorityKey := newKey(directory, "ca")
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test control plane"},
		NotBefore: start, NotAfter: end,
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	check(err)
	save(filepath.Join(directory, "ca.crt"), "CERTIFICATE", der)

	serverKey := newKey(directory, "apiserver")
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"},
		NotBefore: start, NotAfter: end,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost", "kubernetes.default.svc"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	for _, name := range os.Args[2:] {
		if address := net.ParseIP(name); address != nil {
			server.IPAddresses = append(server.IPAddresses, address)
		} else {
			server.DNSNames = append(server.DNSNames, name)
		}
	}
	der, err = x509.CreateCertificate(rand.Reader, server, authority, &serverKey.PublicKey, authorityKey)
	check(err)
	save(filepath.Join(directory, "apiserver.crt"), "CERTIFICATE", der)
}
