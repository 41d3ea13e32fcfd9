/* Process 1 of a pod: holds the pod's namespaces, buries orphans, ends when it is told to. */
#include <signal.h>
#include <sys/wait.h>

int main(void) {
  sigset_t signals;
  int signal_number;

  /* Process 1 has no default actions: a signal that it does not ask for is ignored. */
  sigemptyset(&signals);
  sigaddset(&signals, SIGCHLD);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigprocmask(SIG_BLOCK, &signals, 0);
  for (;;) {
    if (sigwait(&signals, &signal_number) != 0) return 1;
    if (signal_number != SIGCHLD) return 0;
    while (waitpid(-1, 0, WNOHANG) > 0) {
    }
  }
}
