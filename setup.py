"""What pyproject.toml cannot say: data/checkpoints travels in the wheel as refseg/checkpoints."""

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithCheckpoints(build_py):
    """Copies the shipped checkpoints into the package, except for an editable install, which finds the checkout's."""

    def run(self):
        """Build as usual, then copy."""
        super().run()
        if not self.editable_mode:
            self.copy_tree("data/checkpoints", f"{self.build_lib}/refseg/checkpoints")


setup(cmdclass={"build_py": BuildWithCheckpoints})
