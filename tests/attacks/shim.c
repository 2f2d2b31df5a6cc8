/* Makes one call of the C library fail that writes below a folder; see failing_calls.py. Loaded with LD_PRELOAD.

   shim_arm(folder, number, error): the number-th such call from now on fails with that errno; 0 counts without failing.
   error = 0: a write takes half of its bytes, as a system may; other calls succeed.
   shim_count(): how many there were so far. shim_log(): the name of the one that failed. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[PATH_MAX];
static atomic_long count;
static long chosen = -1;
static int failure;
static const char *failed = "";

void shim_arm(const char *below, long number, int error) {
    snprintf(folder, sizeof folder, "%s", below);
    atomic_store(&count, 0);
    chosen = number;
    failure = error;
    failed = "";
}

long shim_count(void) { return atomic_load(&count); }
const char *shim_log(void) { return failed; }

static int below(int at, const char *path) {
    char whole[2 * PATH_MAX];
    if (!folder[0]) return 0;
    if (path[0] != '/') {
        char link[64], base[PATH_MAX];
        if (at == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
        snprintf(whole, sizeof whole, "%s/%s", base, path);
        path = whole;
    }
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int open_below(int descriptor) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(AT_FDCWD, path);
}

/* Whether it is this one's turn. */
static int turn(int ours, const char *name) {
    int error = errno;
    if (!ours || atomic_fetch_add(&count, 1) + 1 != chosen) {
        errno = error;
        return 0;
    }
    failed = name;
    errno = failure;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int descriptor, const void *data, size_t size) {
    if (turn(open_below(descriptor), "write")) {
        if (failure) return -1;
        size = (size + 1) / 2;
    }
    return REAL(write)(descriptor, data, size);
}

#define PWRITE(name, offset_t)                                                        \
    ssize_t name(int descriptor, const void *data, size_t size, offset_t offset) {    \
        if (turn(open_below(descriptor), "pwrite")) {                                 \
            if (failure) return -1;                                                   \
            size = (size + 1) / 2;                                                    \
        }                                                                             \
        return REAL(name)(descriptor, data, size, offset);                            \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define SYNC(name)                                                                    \
    int name(int descriptor) {                                                        \
        if (turn(open_below(descriptor), #name) && failure) return -1;                \
        return REAL(name)(descriptor);                                                \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name, offset_t)                                                      \
    int name(int descriptor, offset_t size) {                                         \
        if (turn(open_below(descriptor), "ftruncate") && failure) return -1;          \
        return REAL(name)(descriptor, size);                                          \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define RESERVE(name, offset_t)                                                       \
    int name(int descriptor, offset_t offset, offset_t size) {                        \
        if (turn(open_below(descriptor), "posix_fallocate") && failure) return failure; \
        return REAL(name)(descriptor, offset, size);                                  \
    }
RESERVE(posix_fallocate, off_t)
RESERVE(posix_fallocate64, off64_t)

#define NAME(name)                                                                    \
    int name(const char *from, const char *to) {                                      \
        if (turn(below(AT_FDCWD, to), #name) && failure) return -1;                   \
        return REAL(name)(from, to);                                                  \
    }
NAME(link)
NAME(rename)

int linkat(int at, const char *from, int to_at, const char *to, int flags) {
    if (turn(below(to_at, to), "link") && failure) return -1;
    return REAL(linkat)(at, from, to_at, to, flags);
}

int renameat(int at, const char *from, int to_at, const char *to) {
    if (turn(below(to_at, to), "rename") && failure) return -1;
    return REAL(renameat)(at, from, to_at, to);
}

#define OPEN(name)                                                                    \
    int name(const char *path, int flags, ...) {                                      \
        va_list rest;                                                                 \
        va_start(rest, flags);                                                        \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;     \
        va_end(rest);                                                                 \
        if (flags & O_CREAT && turn(below(AT_FDCWD, path), "open") && failure) return -1; \
        return REAL(name)(path, flags, mode);                                         \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                  \
    int name(int at, const char *path, int flags, ...) {                              \
        va_list rest;                                                                 \
        va_start(rest, flags);                                                        \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;     \
        va_end(rest);                                                                 \
        if (flags & O_CREAT && turn(below(at, path), "open") && failure) return -1;   \
        return REAL(name)(at, path, flags, mode);                                     \
    }
OPENAT(openat)
OPENAT(openat64)
