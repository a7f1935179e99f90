"""What pyproject.toml cannot say: the repository's root is the package, whose folders setuptools
finds itself.
"""

from setuptools import find_packages, setup

ROOMS = ("farm", "gallery", "kernels", "nodes")

setup(
    package_dir={"distill3d": "."},
    packages=[
        "distill3d",
        *(
            f"distill3d.{name}"
            for name in find_packages(
                include=[pattern for room in ROOMS for pattern in (room, f"{room}.*")]
            )
        ),
    ],
)
