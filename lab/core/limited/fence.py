"""The limits that the child puts on itself before foreign code runs; see run.py for what they are.

Three layers, each where the system has it. `setrlimit` bounds memory, processor time and files. On
Linux the kernel refuses system calls (seccomp) and files outside the folder (Landlock), for good:
what the child has taken from itself it cannot take back. Everywhere an audit hook of Python
(PEP 578) refuses the same first, with a sentence that says so; code that goes around Python goes
around it.

A child starts for each answer of some rewards: only modules that load quickly are imported here.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Callable

try:
    import resource
except ImportError:  # Windows
    resource = None

MEMORY, PROCESSOR, FILES, PROCESSES, NETWORK, FOLDER = (
    "memory", "processor", "files", "processes", "network", "folder")
FENCES = (MEMORY, PROCESSOR, FILES, PROCESSES, NETWORK, FOLDER)
MB = 1_000_000
OPEN_FILES = 256


def put_up(limits: dict, folder: str, reads: list[str]) -> list[str]:
    """Limit this process, for good: which of FENCES the system itself keeps up.

    `limits` are those of `run.Limits`. Files are written only below `folder` and read only below
    it and `reads`, and what Python itself lies in.
    """
    kept = _resources(limits)
    if sys.platform == "linux":
        if _landlock(folder, [*reads, *_of_python()]):
            kept.append(FOLDER)
        if _seccomp():
            kept += [PROCESSES, NETWORK]
    if PROCESSES not in kept and resource:
        # Threads count as processes here, and for root it counts nothing: better than no limit.
        _set(resource.RLIMIT_NPROC, 0, 0)
    sys.addaudithook(_hook(os.path.realpath(folder)))
    return kept


def more_time(seconds: float) -> None:
    """Let this process use so many more seconds of the processor."""
    if resource:
        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        _set(resource.RLIMIT_CPU, int(used + seconds) + 1, hard)


def _set(kind: int, soft: int, hard: int) -> bool:
    try:
        resource.setrlimit(kind, (soft, hard))
        return True
    except (ValueError, OSError):
        return False


def _resources(limits: dict) -> list[str]:
    if not resource:
        return []
    kept = []
    for name, kind, most in ((MEMORY, resource.RLIMIT_AS, limits["memory_mb"] * MB),
                             (FILES, resource.RLIMIT_FSIZE, limits["file_mb"] * MB),
                             ("", resource.RLIMIT_CORE, 0),
                             ("", resource.RLIMIT_NOFILE, OPEN_FILES)):
        if _set(kind, most, most):
            kept.append(name)
    more_time(limits["seconds"])
    kept.append(PROCESSOR)
    if sys.platform == "darwin" and MEMORY in kept:
        kept.remove(MEMORY)  # it is taken there and not kept
    return [name for name in kept if name]


# Landlock: which files can be reached (linux/landlock.h).

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_WRITE_FILE, _READ_FILE, _READ_DIR, _REFER, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 13, 1 << 14
_MAKE_AND_REMOVE = sum(1 << bit for bit in range(4, 13))
NO_NEW_PRIVS, SET_SECCOMP = 38, 22  # of prctl
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/opt", "/nix", "/etc/ld.so.cache",
           "/etc/localtime", "/dev/urandom", "/dev/random", "/dev/zero", "/proc/self",
           "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu")


def _of_python() -> list[str]:
    return [*_SYSTEM, sys.prefix, sys.base_prefix, sys.exec_prefix,
            *(path for path in sys.path if os.path.isabs(path) and "site-packages" in path)]


def _landlock(folder: str, reads: list[str]) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE, None, 0, 1)
    if version < 1:
        return False
    everything = (_WRITE_FILE | _READ_FILE | _READ_DIR | _MAKE_AND_REMOVE
                  | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0))
    ruleset = libc.syscall(_CREATE, struct.pack("Q", everything), 8, 0)
    if ruleset < 0:
        return False

    def allow(path: str, access: int) -> None:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return  # there is no such place here
        if not os.path.isdir(path):
            access &= _WRITE_FILE | _READ_FILE | _TRUNCATE
        libc.syscall(_ADD, ruleset, 1, struct.pack("=Qi", access & everything, place), 0)
        os.close(place)

    allow(folder, everything)
    allow(os.devnull, _WRITE_FILE | _READ_FILE | _TRUNCATE)
    for path in reads:
        allow(path, _READ_FILE | _READ_DIR)
    kept = libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) == 0 and libc.syscall(_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return kept


# seccomp: which system calls are refused (linux/seccomp.h, linux/bpf_common.h).

_MACHINES = {  # machine: (AUDIT_ARCH, {name: number}); aarch64 has no fork and no vfork
    "x86_64": (0xC000003E, {
        "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "clone": 56, "clone3": 435,
        "socket": 41, "io_uring_setup": 425, "kill": 62, "tkill": 200, "tgkill": 234,
        "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "pidfd_send_signal": 424,
        "prlimit64": 302, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
        "unshare": 272, "setns": 308, "mount": 165, "umount2": 166, "pivot_root": 155,
        "chroot": 161, "reboot": 169, "bpf": 321, "keyctl": 250, "setpriority": 141}),
    "aarch64": (0xC00000B7, {
        "execve": 221, "execveat": 281, "clone": 220, "clone3": 435, "socket": 198,
        "io_uring_setup": 425, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138,
        "rt_tgsigqueueinfo": 240, "pidfd_send_signal": 424, "prlimit64": 261, "ptrace": 117,
        "process_vm_readv": 270, "process_vm_writev": 271, "unshare": 97, "setns": 268,
        "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "reboot": 142, "bpf": 280,
        "keyctl": 219, "setpriority": 140}),
}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _KILL, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026  # EPERM, ENOSYS
_CLONE_THREAD = 0x00010000
_OTHER_ABI = 0x40000000  # x32 calls of x86_64 have numbers from here on


def _seccomp() -> bool:
    machine = os.uname().machine
    if machine not in _MACHINES or struct.calcsize("P") != 8:
        return False
    arch, numbers = _MACHINES[machine]
    rules = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL),
             (_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _OTHER_ABI), (_RETURN, 0, 0, _REFUSE)]
    only = {"clone": (_ANY_BIT, _CLONE_THREAD),  # a thread of its own, not a process
            "kill": (_EQUAL, os.getpid()), "tgkill": (_EQUAL, os.getpid()),  # itself
            "prlimit64": (_EQUAL, 0)}
    for name, number in numbers.items():
        if name in only:
            test, value = only[name]
            rules += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, _FIRST_ARGUMENT), (test, 0, 1, value),
                      (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
        else:
            # Where clone3 is unknown, the C library takes clone, whose flags can be looked at.
            rules += [(_EQUAL, 0, 1, number),
                      (_RETURN, 0, 0, _UNKNOWN if name == "clone3" else _REFUSE)]
    rules.append((_RETURN, 0, 0, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules),
                                                      ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    return (libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            and libc.prctl(SET_SECCOMP, 2, program, 0, 0) == 0)


# The audit hook: the same in Python's own words.

NO_NETWORK = "There is no network in the limited child."
NO_PROCESS = "No other process can be started from the limited child."
NO_SIGNAL = "No other process can be reached from the limited child."
NO_WRITING = "Files can only be written in the limited child's own empty folder, not at "
_REFUSED = {
    **dict.fromkeys(("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg",
                     "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"),
                    NO_NETWORK),
    **dict.fromkeys(("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec",
                     "os.system", "os.spawn", "os.startfile", "pty.spawn"), NO_PROCESS),
    **dict.fromkeys(("os.kill", "os.killpg"), NO_SIGNAL),
}
_CHANGES = {  # event: how many of its first arguments are paths
    "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1, "os.chmod": 1, "os.chown": 1,
    "os.utime": 1, "os.setxattr": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2,
}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _hook(folder: str) -> Callable[[str, tuple], None]:
    myself = os.getpid()
    allowed = (folder, os.path.realpath(os.devnull))

    def refuse_outside(path) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return  # a file that is open already
        place = os.path.realpath(os.fsdecode(path))
        if not any(place == one or place.startswith(one + os.sep) for one in allowed):
            raise PermissionError(NO_WRITING + place)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            if (arguments[2] or 0) & _WRITES:
                refuse_outside(arguments[0])
        elif event in _REFUSED:
            if event == "os.kill" and arguments[0] == myself:
                return
            if os.name == "nt" and event in ("socket.connect", "socket.bind") \
                    and arguments[1][0] == "127.0.0.1":
                return  # how asyncio wakes itself up there
            raise PermissionError(_REFUSED[event])
        elif event in _CHANGES:
            for path in arguments[:_CHANGES[event]]:
                refuse_outside(path)

    return hook
