"""Makes the root file system of an image out of installed packages: the files that are asked for and what they link to.

It runs in the build stage of each Dockerfile, under Debian's Python and with nothing but python3-minimal's modules:

    rootfs.py TARGET [--user NAME:ID] [--entry PROGRAM=MODULE:FUNCTION] WHAT ...

WHAT is a pattern of package names, or PACKAGE:PATTERN for some files of one package. Added to them: shared libraries,
the licence of each package that gave a file, and its entry in dpkg's status, by which scanners know what is inside.
"""

from __future__ import annotations

import argparse
import compileall
import py_compile
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path

DPKG = Path("/var/lib/dpkg")
DIRECTORIES = {"dev": 0o755, "etc": 0o755, "proc": 0o755, "run": 0o755, "sys": 0o755, "tmp": 0o1777}
"""Where a runtime mounts, by mode."""
PYTHON_ROOT = "usr/lib/python3*"
UNUSED = (
    "/usr/share/doc/*",  # licences are added at the end
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/bash-completion/*",
    "/usr/share/python3/*",  # these four compile bytecode when packages change
    "/usr/bin/py3*",
    "/usr/lib/binfmt.d/*",
    "/usr/share/binfmts/*",
    "/usr/lib/python3*/__pycache__/*",  # compiled anew, below
    "/usr/lib/python3*/*/__pycache__/*",
    "/usr/lib/python3*/lib-dynload/_test*",
    "/usr/lib/python3*/lib-dynload/_ctypes_test*",
    "/usr/lib/python3*/lib-dynload/*xx*",
    "/usr/lib/python3*/test/*",
    "/usr/lib/python3*/pydoc_data/*",
    "/usr/lib/python3*/turtle*",
    "/usr/lib/python3*/ensurepip/*",
    "/usr/lib/python3*/venv/*",
    "/usr/lib/python3*/curses/*",  # and what each of these would link to
    "/usr/lib/python3*/lib-dynload/_curses*",
    "/usr/lib/python3*/lib-dynload/readline*",
    "/usr/lib/python3*/sqlite3/*",
    "/usr/lib/python3*/lib-dynload/_sqlite3*",
    "/usr/lib/python3*/dbm/*",
    "/usr/lib/python3*/lib-dynload/_dbm*",
)
"""Files of the packages that no image of ours uses."""
ENTRY_POINT = "#!/usr/bin/python3 -I\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"


class Package:
    """An installed package and the files it owns, by their path without links in its directories."""

    def __init__(self, info: Path) -> None:
        self.name = info.name.removesuffix(".list").partition(":")[0]
        self.files = tuple(_canonical(Path(line)) for line in info.read_text().splitlines() if line not in ("", "/."))

    def chosen(self, pattern: str) -> Iterator[Path]:
        """The files that match, less the unused ones and directories."""
        for path in self.files:
            wanted = fnmatchcase(str(path), pattern) and not any(fnmatchcase(str(path), unused) for unused in UNUSED)
            if wanted and (path.is_symlink() or path.is_file()):
                yield path


def _canonical(path: Path) -> Path:
    """The path with no link among its directories; the last name may be one."""
    return _resolved(path.parent) / path.name


@cache
def _resolved(directory: Path) -> Path:
    return directory.resolve()


def select(packages: Iterable[Package], what: str) -> set[Path]:
    """The files that one word of the command line asks for. Exits when there is none: the word is out of date."""
    name, _, pattern = what.partition(":")
    owners = [package for package in packages if fnmatchcase(package.name, name)]
    found = {path for package in owners for path in package.chosen(pattern or "*")}
    if not found:
        sys.exit(f"rootfs.py: {what}: no such file of an installed package")
    return found


def with_libraries(paths: Iterable[Path], programs: Iterable[Path]) -> set[Path]:
    """The paths, the shared libraries of the programs, and what links among all these point to."""
    said = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False).stdout
    if lost := re.findall(r"^\s*(\S+) => not found", said, re.MULTILINE):
        sys.exit(f"rootfs.py: libraries that no installed package holds: {', '.join(sorted(set(lost)))}")
    libraries = map(Path, re.findall(r"(?:=>|^)\s+(/\S+) \(0x", said, re.MULTILINE))
    return {step for path in (*paths, *libraries) for step in _links(_canonical(path))}


def programs(paths: Iterable[Path]) -> list[Path]:
    """Those of the paths that are programs or libraries, sorted."""
    return sorted(path for path in paths if not path.is_symlink() and path.is_file() and _starts_as_elf(path))


def _starts_as_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _links(path: Path) -> Iterator[Path]:
    """The path, and where it leads while it is a link."""
    while path.is_symlink():
        yield path
        path = _canonical(path.parent / path.readlink())
    if path.is_file():
        yield path


def copy(paths: Iterable[Path], target: Path) -> None:
    """Copy with modes, times and links; directories on the way are made."""
    names = "\0".join(str(path).lstrip("/") for path in sorted(paths))
    read = ["tar", "-C", "/", "--no-recursion", "--null", "-T", "-", "-c"]
    packed = subprocess.run(read, input=names.encode(), stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-C", str(target), "-x", "--no-same-owner", "-p"], input=packed, check=True)


def skeleton(target: Path) -> None:
    """The directories that a runtime mounts on, and the links of the merged /usr."""
    for name, mode in DIRECTORIES.items():
        (target / name).mkdir(parents=True, exist_ok=True)
        (target / name).chmod(mode)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (target / "usr" / name).mkdir(parents=True, exist_ok=True)
            (target / name).symlink_to(Path("usr", name))


def register(packages: Iterable[Package], target: Path) -> None:
    """Name the `packages` in dpkg's status, each with its licence."""
    names = {package.name for package in packages}
    entries = (DPKG / "status").read_text().split("\n\n")
    kept = [entry for entry in entries if entry.strip().partition("\n")[0].removeprefix("Package: ") in names]
    status = target / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text("\n\n".join(entry.strip() for entry in kept) + "\n\n")
    folders = {Path("/usr/share/doc", name) for name in names}
    licences = {step for folder in folders for step in _links(_canonical(folder / "copyright"))}
    copy(licences | {folder for folder in folders if folder.is_symlink()}, target)


def add_user(target: Path, name: str, number: int) -> None:
    """Root and one user without a shell, a home or a password."""
    texts = {
        "passwd": f"root:x:0:0:root:/nonexistent:/usr/sbin/nologin\n{name}:x:{number}:{number}:{name}:"
        "/nonexistent:/usr/sbin/nologin\n",
        "group": f"root:x:0:\n{name}:x:{number}:\n",
    }
    for file, text in texts.items():
        (target / "etc" / file).write_text(text)


def add_entry(target: Path, program: str, module: str, function: str) -> None:
    """A program that Python runs by itself: no shell, and nothing of the environment changes what is imported."""
    path = target / "usr/bin" / program
    path.write_text(ENTRY_POINT.format(module=module, function=function))
    path.chmod(0o755)


def compile_python(target: Path) -> bool:
    """Bytecode that is never checked against its source: file times do not matter, and nothing wants to be written."""
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    roots = sorted(target.glob(PYTHON_ROOT))
    workers = 0 if find_spec("concurrent") else 1  # 0: one for each processor; python3-minimal can't
    options = {"quiet": 1, "invalidation_mode": mode, "stripdir": str(target), "prependdir": "/", "workers": workers}
    whole = [compileall.compile_dir(str(root), **options) for root in roots]  # type: ignore[arg-type]
    return all(whole)


def main() -> None:
    arguments = _parser().parse_args()
    target: Path = arguments.target
    packages = [Package(info) for info in sorted((DPKG / "info").glob("*.list"))]
    chosen = {path for what in arguments.what for path in select(packages, what)}
    paths = with_libraries(chosen, programs([*chosen, *target.rglob("*")]))
    skeleton(target)
    copy(paths, target)
    register([package for package in packages if not paths.isdisjoint(package.files)], target)
    user, _, number = arguments.user.partition(":")
    add_user(target, user, int(number))
    add_entry(target, *re.split("[=:]", arguments.entry))
    if not compile_python(target):
        sys.exit("rootfs.py: some module does not compile")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", type=Path)
    parser.add_argument("--user", required=True, metavar="NAME:ID")
    parser.add_argument("--entry", required=True, metavar="PROGRAM=MODULE:FUNCTION")
    parser.add_argument("what", nargs="+")
    return parser


if __name__ == "__main__":
    main()
