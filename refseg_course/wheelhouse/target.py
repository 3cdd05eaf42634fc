"""The laptops that a wheelhouse is for, and what pip calls them."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import dataclass

from refseg.errors import RefsegError

# What pip calls the systems of our choice. A Linux wheel names the oldest C library it runs with, 2.17 to 2.28 here.
PLATFORMS = {
    "windows": ("win_amd64",),
    "macos": ("macosx_14_0_arm64",),
    "linux": (*(f"manylinux_2_{n}_x86_64" for n in range(28, 16, -1)), "manylinux2014_x86_64", "linux_x86_64"),
}
SYSTEMS = {  # prefix of pip's name: os_name, sys_platform, platform_system
    "win": ("nt", "win32", "Windows"),
    "macosx": ("posix", "darwin", "Darwin"),
    "manylinux": ("posix", "linux", "Linux"),
    "musllinux": ("posix", "linux", "Linux"),
    "linux": ("posix", "linux", "Linux"),
}


@dataclass(frozen=True)
class Target:
    """The laptops that a wheelhouse is for.

    Args:
        platform: "windows", "macos", "linux", or pip's own name such as "win_amd64"; None is this machine's.
        python: such as "3.12"; None is the running one.

    Raises:
        RefsegError: a name is unknown.
    """

    platform: str | None = None
    python: str | None = None

    def __post_init__(self):
        if self.platform is not None and self._system is None:
            known = ", ".join(PLATFORMS)
            raise RefsegError(
                f"There is no platform {self.platform!r}: give {known}, or pip's name, such as win_amd64."
            )
        if self.python is not None and not re.fullmatch(r"3\.\d{1,2}", self.python):
            raise RefsegError(f"{self.python!r} is not a version of Python such as 3.12.")

    @property
    def tags(self) -> tuple[str, ...]:
        """pip's names of the platform."""
        return PLATFORMS.get(self.platform, (self.platform,)) if self.platform else ()

    @property
    def options(self) -> list[str]:
        """What pip is asked for; wheels only, because few laptops have a compiler."""
        version = ["--python-version", self.python] if self.python else []
        return ["--only-binary=:all:", *(word for tag in self.tags for word in ("--platform", tag)), *version]

    @property
    def markers(self) -> dict[str, str]:
        """The environment markers (PEP 508) in which the laptops differ from this machine, as far as packages ask."""
        changes = {}
        if self._system:
            names = ("os_name", "sys_platform", "platform_system")
            changes |= dict(zip(names, self._system)) | {"platform_machine": self._machine}
        if self.python:
            changes |= {"python_version": self.python, "python_full_version": f"{self.python}.0"}
        return changes

    @property
    def is_linux(self) -> bool:
        """Whether PyPI's torch would bring CUDA with it."""
        return self._system[1] == "linux" if self._system else sys.platform == "linux"

    def __str__(self) -> str:
        system = f"{self._system[2]} {self._machine}" if self._system else f"{platform.system()} {platform.machine()}"
        return f"{system}, Python {self.python or f'{sys.version_info[0]}.{sys.version_info[1]}'}"

    @property
    def _system(self) -> tuple[str, str, str] | None:
        for prefix, system in SYSTEMS.items():
            if self.tags and re.match(rf"{prefix}[\d_]", self.tags[0]):
                return system
        return None

    @property
    def _machine(self) -> str:
        machine = re.search(r"(x86_64|amd64|arm64|aarch64|i686|universal2|$)", self.tags[0]).group()
        return machine.upper() if self._system[1] == "win32" else machine
