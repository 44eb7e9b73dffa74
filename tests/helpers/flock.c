// Preloaded by test_locks.py: flock() as other file systems have it, by the variable FILE_SYSTEM.
// nfs: made a byte-range lock of the whole file, which, exclusive, needs a file open for writing, and, shared, one open
//      for reading (flock(2), "NFS details")
// a number: that error, such as ENOLCK of NFS without its lock service, ENOSYS of Lustre mounted without -o flock
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

int flock(int file, int operation) {
  const char *kind = getenv("FILE_SYSTEM");
  if (!kind || strcmp(kind, "nfs")) {
    errno = kind ? atoi(kind) : EINVAL;
    return -1;
  }
  int mode = fcntl(file, F_GETFL) & O_ACCMODE;
  struct flock range = {.l_type = F_UNLCK, .l_whence = SEEK_SET};
  if (operation & LOCK_EX) range.l_type = F_WRLCK;
  if (operation & LOCK_SH) range.l_type = F_RDLCK;
  if ((range.l_type == F_WRLCK && mode == O_RDONLY) || (range.l_type == F_RDLCK && mode == O_WRONLY)) {
    errno = EBADF;
    return -1;
  }
  return fcntl(file, operation & LOCK_NB ? F_OFD_SETLK : F_OFD_SETLKW, &range);
}
