"""The default seccomp profile: what a container may ask of the kernel.

Everything is refused with EPERM but what is listed here. The list is what containers of the field
are used to, with two stricter points: the kernel's crypto sockets (AF_ALG) are refused like
AF_VSOCK, and so is every way around that look at ``socket``'s first argument: ``socketcall``, whose
arguments lie in memory where no filter sees them, and io_uring, which makes sockets by itself.
"""

from __future__ import annotations

import platform
from collections.abc import Collection

from .kernel import kernel_at_least
from .types import Seccomp, SeccompArg, SeccompRule

ALLOW = "SCMP_ACT_ALLOW"
ERRNO = "SCMP_ACT_ERRNO"
ENOSYS = 38
AF_ALG, AF_VSOCK = 38, 40
# Above every address family there is (AF_MAX is 46).
AF_LIMIT = 64
# CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET
CLONE_NAMESPACES = 0x7E020000

_FILES = """
access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl
fcntl64 fdatasync fgetxattr flistxattr flock fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64
fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat inotify_add_watch
inotify_init inotify_init1 inotify_rm_watch ioctl lchown lchown32 lgetxattr link linkat listxattr listxattrat
llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at
newfstatat open openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink
readlinkat readv removexattr removexattrat rename renameat renameat2 rmdir sendfile sendfile64 setxattr
setxattrat splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs tee truncate
truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice write writev
cachestat pipe pipe2
"""
_MEMORY = """
brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap mmap2
mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_mrelease
remap_file_pages
"""
_PROCESSES = """
capget capset execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv
futex_wake getcpu getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp
getpid getppid getpriority getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage
getsid get_thread_area gettid getuid getuid32 ioprio_get ioprio_set landlock_add_rule landlock_create_ruleset
landlock_restrict_self pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace
restart_syscall rseq sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp setfsgid setfsgid32
setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority setregid setregid32 setresgid
setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid set_thread_area
set_tid_address setuid setuid32 sysinfo ugetrlimit uname vfork wait4 waitid waitpid
"""
_SIGNALS = """
kill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 sigprocmask sigreturn
tgkill tkill
"""
_TIME = """
adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64
clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create
timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create
timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times
"""
_WAITING = """
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
eventfd2 io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect
poll ppoll ppoll_time64 pselect6 pselect6_time64 select
"""
_TALKING = """
accept accept4 bind connect getpeername getrandom getsockname getsockopt ipc listen mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink msgctl msgget msgrcv
msgsnd recv recvfrom recvmmsg recvmmsg_time64 recvmsg semctl semget semop semtimedop semtimedop_time64 send
sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown socketpair
"""

# Before, a traced process got around its filter (seccomp(2)).
_PTRACE_SINCE = "4.8"
_PTRACE = "process_vm_readv process_vm_writev ptrace"

_BY_CAPABILITY = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYSLOG": "syslog",
    "CAP_SYS_ADMIN": "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie "
    "mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname "
    "sethostname setns statmount syslog umount umount2 unshare",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}

_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
    "ppc64le": ("SCMP_ARCH_PPC64LE",),
    "riscv64": ("SCMP_ARCH_RISCV64",),
    "s390x": ("SCMP_ARCH_S390X", "SCMP_ARCH_S390"),
}
_BY_MACHINE = {
    "x86_64": "arch_prctl modify_ldt",
    "aarch64": "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    "ppc64le": "swapcontext sync_file_range2",
    "riscv64": "riscv_flush_icache riscv_hwprobe",
    "s390x": "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
}
# PER_LINUX, PER_LINUX32, both with UNAME26, and the question what it is.
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)


def default_profile(capabilities: Collection[str], machine: str = "", kernel: str = "") -> Seccomp | None:
    """The profile for a container with ``capabilities`` on ``machine`` and ``kernel`` (uname's words; this
    machine's if empty).

    None where the architecture is not known, so that nothing is filtered wrongly.
    """
    machine = machine or platform.machine()
    architectures = _ARCHITECTURES.get(machine)
    if architectures is None:
        return None
    names = {
        name
        for group in (_FILES, _MEMORY, _PROCESSES, _SIGNALS, _TIME, _WAITING, _TALKING, _BY_MACHINE[machine])
        for name in group.split()
    }
    if (
        not kernel_at_least(kernel or platform.release(), _PTRACE_SINCE)
        and "CAP_SYS_PTRACE" not in capabilities
    ):
        names.difference_update(_PTRACE.split())
    for capability in capabilities:
        names.update(_BY_CAPABILITY.get(capability, "").split())
    rules: list[SeccompRule] = [SeccompRule(names=sorted(names), action=ALLOW)]
    rules += [
        _masked("socket", 0, mask, value) for mask, value in _blocks(range(AF_LIMIT), (AF_ALG, AF_VSOCK))
    ]
    # C libraries fall back to the direct calls on ENOSYS, and do not on EPERM.
    missing = ["socketcall"]
    rules += [_equal("personality", 0, value) for value in _PERSONALITIES]
    if "CAP_SYS_ADMIN" not in capabilities:
        flags = 1 if machine == "s390x" else 0
        rules.append(_masked("clone", flags, CLONE_NAMESPACES, 0))
        # Its flags lie in memory; ENOSYS makes a C library fall back to clone.
        missing.append("clone3")
    rules.append(SeccompRule(names=missing, action=ERRNO, errnoRet=ENOSYS))
    return Seccomp(defaultAction=ERRNO, architectures=list(architectures), syscalls=rules)


def _blocks(numbers: range, refused: Collection[int]) -> list[tuple[int, int]]:
    """``numbers`` (from 0 to a power of two) without ``refused``, as (mask, value) of aligned blocks.

    A domain is an int in a 64-bit register. Comparing whole registers, as "not equal" would, lets
    a domain with garbage above its 32 bits through, which the kernel then cuts off; a mask does not.
    """
    inside = [number for number in refused if number in numbers]
    if not inside:
        return [(0xFFFFFFFF & ~(len(numbers) - 1), numbers.start)]
    if len(numbers) == 1:
        return []
    half = numbers.start + len(numbers) // 2
    return _blocks(range(numbers.start, half), inside) + _blocks(range(half, numbers.stop), inside)


def _masked(name: str, index: int, mask: int, value: int) -> SeccompRule:
    arg = SeccompArg(index=index, value=mask, valueTwo=value, op="SCMP_CMP_MASKED_EQ")
    return SeccompRule(names=[name], action=ALLOW, args=[arg])


def _equal(name: str, index: int, value: int) -> SeccompRule:
    return SeccompRule(
        names=[name], action=ALLOW, args=[SeccompArg(index=index, value=value, op="SCMP_CMP_EQ")]
    )
