"""Package metadata. The five top-level folders are linked into src/raylign (docs/decisions.md)."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="raylign",
    version="0.1.0",
    description="Online post-training of language models on Ray, vLLM and DeepSpeed",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"raylign.jobs": ["recipes/*.yaml"]},
    entry_points={"console_scripts": ["raylign = raylign.jobs.__main__:main"]},
)
