"""CUDA C++ kernels on the CPU: compiled by g++ behind cuda_on_cpu.h, and run in the order of a seed."""

import ctypes
import functools
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
FLAGS = ["-std=c++20", "-O2", "-g", "-fPIC", "-ffp-contract=off", "-march=native", "-fvisibility=hidden"]
RUNTIMES = {"thread": "libtsan.so", "address": "libasan.so"}
OPTIONS = {
    "thread": {"TSAN_OPTIONS": "exitcode=66 halt_on_error=0 history_size=4"},
    "address": {"ASAN_OPTIONS": "exitcode=66 detect_leaks=0 detect_stack_use_after_return=0"},
}


class EmulationError(Exception):
    """A kernel does not compile, or breaks a rule of CUDA as it runs."""


class Library:
    """The kernels of one source.

    Parameters
    ----------
    path : Path
        The shared library, made by `build`.
    kernels : dict of str to str
        The kernels and the structs they take.
    """

    def __init__(self, path: Path, kernels: dict[str, str]) -> None:
        self.path = path
        self._library = ctypes.PyDLL(str(path))  # keeps the GIL: the emulator's state is global
        self._kernels = {name: self._library[f"launch_{name}"] for name in kernels}
        self._sizes = {name: int(self._library[f"size_{name}"]()) for name in kernels}

    def launch(
        self,
        name: str,
        grid: Sequence[int],
        block: Sequence[int],
        call: bytes,
        *,
        shared_bytes: int = 0,
        cluster: int = 1,
        cooperative: bool = False,
        seed: int = 0,
    ) -> None:
        """Run a kernel to its end.

        Parameters
        ----------
        name : str
            The kernel.
        grid, block : sequence of int
            The launch's sizes, up to three.
        call : bytes
            The kernel's struct.
        shared_bytes : int, optional
            Dynamic shared memory.
        cluster : int, optional
            Blocks of a cluster, along x.
        cooperative : bool, optional
            Run all blocks together, for grid_barrier.
        seed : int, optional
            The schedule.

        Raises
        ------
        EmulationError
            If the kernel breaks a rule of CUDA.
        """
        if len(call) != self._sizes[name]:
            raise EmulationError(f"{name} takes {self._sizes[name]} bytes, not {len(call)}")
        sizes = [(ctypes.c_uint * 3)(*(*size, 1, 1)[:3]) for size in (grid, block)]
        error = ctypes.create_string_buffer(4096)
        argument = ctypes.create_string_buffer(call, len(call))
        if self._library.emulate(
            self._kernels[name],
            *sizes,
            ctypes.c_uint(shared_bytes),
            ctypes.c_uint(cluster),
            ctypes.c_int(cooperative),
            argument,
            ctypes.c_ulonglong(seed),
            error,
            ctypes.c_uint(len(error)),
        ):
            raise EmulationError(error.value.decode())


def available() -> bool:
    """Whether g++ is there."""
    return shutil.which("g++") is not None


def library_folder() -> Path:
    """The folder of libraries that every checkout and process of this user shares: a file's name is its content's.

    Raises
    ------
    PermissionError
        If somebody else can write there: libraries in it are loaded.
    """
    folder = Path(tempfile.gettempdir(), f"antisymrnn-cuda-on-cpu-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder}: expected a folder that nobody else can write to; remove it, or set TMPDIR")
    return folder


def build(source: str, kernels: dict[str, str], *, sanitizer: str | None = None, folder: Path) -> Library:
    """Compile a source, once.

    Parameters
    ----------
    source : str
        The kernels' text.
    kernels : dict of str to str
        The kernels and the structs they take.
    sanitizer : {None, "thread", "address"}, optional
        A sanitizer, which needs `run_sanitized`.
    folder : Path
        The place of the libraries.

    Returns
    -------
    Library
        The kernels, to be launched.

    Raises
    ------
    EmulationError
        If g++ is missing or rejects the source, or the sanitizer is not loaded.
    """
    if sanitizer and RUNTIMES[sanitizer] not in os.environ.get("LD_PRELOAD", ""):
        raise EmulationError(f"the {sanitizer} sanitizer must be loaded first: use run_sanitized")
    trampolines = "".join(
        f"CUDA_ON_CPU_EXPORT void launch_{name}(const void* call) {{ {name}(*static_cast<const {struct}*>(call)); }}\n"
        f"CUDA_ON_CPU_EXPORT int size_{name}() {{ return sizeof({struct}); }}\n"
        for name, struct in kernels.items()
    )
    header = HEADER.read_text()
    flags, only_kernels = list(FLAGS), []
    if sanitizer:
        flags += [f"-DCUDA_ON_CPU_{sanitizer.upper()}", "-fno-omit-frame-pointer"]
        only_kernels = [f"-fsanitize={sanitizer}"]
    folder.mkdir(parents=True, exist_ok=True)
    runtime = _compiled(header, [*flags, "-DCUDA_ON_CPU_RUNTIME", "-c"], [], folder, ".o")
    text = "\n".join(
        ['#line 1 "cuda_on_cpu.h"', header, '#line 1 "kernels.cu"', source, '#line 1 "trampolines"', trampolines]
    )
    return Library(_compiled(text, [*flags, *only_kernels, "-shared"], [str(runtime)], folder, ".so"), kernels)


def run_sanitized(kind: str, script: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a Python script in a child with a sanitizer loaded; a report makes its exit status 66.

    Parameters
    ----------
    kind : {"thread", "address"}
        The sanitizer.
    script : str
        The script's path.
    arguments : list of str
        Its arguments.

    Returns
    -------
    subprocess.CompletedProcess
        The child, with its output as text.
    """
    library = _run([_compiler(), f"-print-file-name={RUNTIMES[kind]}"]).stdout.strip()
    if not Path(library).is_absolute():
        raise EmulationError(f"g++ has no {RUNTIMES[kind]}")
    threads = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **OPTIONS[kind], **threads, "LD_PRELOAD": library}
    command = [sys.executable, script, *arguments]
    done = _run(command, environment)
    if "unexpected memory mapping" in done.stderr and shutil.which("setarch"):
        done = _run(["setarch", "-R", *command], environment)  # ThreadSanitizer's addresses against the kernel's ASLR
    return done


def _run(command: list[str], environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@functools.cache
def _compiler() -> str:
    if (path := shutil.which("g++")) is None:
        raise EmulationError("the emulator of CUDA needs g++, which is not installed")
    return path


@functools.cache
def _compiler_target() -> str:
    """What the flags mean here: the version of g++, and the processor that it compiles for."""
    options = (["--version"], ["-march=native", "-Q", "--help=target"])
    return "".join(_run([_compiler(), *words], _unsanitized()).stdout for words in options)


def _unsanitized() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}


def _compiled(text: str, flags: list[str], objects: list[str], folder: Path, suffix: str) -> Path:
    key = hashlib.sha256("\0".join([_compiler_target(), text, *flags, *objects]).encode()).hexdigest()[:20]
    made = folder / f"{key}{suffix}"
    if made.exists():
        return made
    source = folder / f"{key}.{os.getpid()}.cpp"
    source.write_text(text)
    partial = folder / f"{key}.{os.getpid()}{suffix}"  # renamed when whole: others may build beside this
    done = _run([_compiler(), *flags, str(source), *objects, "-o", str(partial)], _unsanitized())
    if done.returncode:
        raise EmulationError("g++: " + "\n".join(done.stderr.splitlines()[:20]))
    partial.rename(made)
    return made
