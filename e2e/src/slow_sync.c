/* A disk whose syncs take time: preloaded into the sidecar by tests (LD_PRELOAD). Each sync waits as many milliseconds as the file
 * named by STENO_SYNC_DELAY_FILE says, then goes on to the real one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void wait_as_told(void) {
  const char *path = getenv("STENO_SYNC_DELAY_FILE");
  FILE *file = path ? fopen(path, "re") : NULL;
  long milliseconds = 0;
  if (file) {
    if (fscanf(file, "%ld", &milliseconds) != 1) milliseconds = 0;
    fclose(file);
  }
  struct timespec rest = {milliseconds / 1000, (milliseconds % 1000) * 1000000};
  while (milliseconds > 0 && nanosleep(&rest, &rest) != 0) {
  }
}

int fdatasync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  wait_as_told();
  return real(fd);
}
