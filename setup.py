"""List the packages: setuptools discovers them only when a package has the name of its folder."""

from setuptools import find_packages, setup

setup(
    packages=[
        "vlibrary",
        *(f"vlibrary.{package}" for package in find_packages("service")),
        "vlibrary.migrations",  # versions/ is data: Alembic loads its files by path
    ]
)
