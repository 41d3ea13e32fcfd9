module storageformat.dev/devtools/controlplane/pki

go 1.24.0
