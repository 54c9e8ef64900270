"""The packages of the distribution; everything else stands in pyproject.toml.

`packages.find` drops a package whose folder has another name, and `configs/` is installed as `sgm_configs`.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["sgm_core*", "sgm_plugins*"]), "sgm_configs"],
    package_dir={"sgm_configs": "configs"},
)
