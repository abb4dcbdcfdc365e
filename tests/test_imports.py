# SPDX-License-Identifier: Apache-2.0
"""What importing costs, what it pulls in, and that imports only point downward."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "video_saliency"

# from the lowest layer to the highest; a module may import from its own layer's own package and from lower layers
LAYERS = [
    ["version", "defaults", "modeling_outputs", "windows", "losses", "optical_flow", "background", "atomic_files"],
    ["audio_windows", "placement"],
    ["saliency_config"],
    ["backbones", "checkpoints", "sharded_weights", "weights_record"],
    ["models"],
    ["processing_video_saliency", "source_files", "map_io", "flow_files", "metrics"],
    ["video_container"],
    ["audio_io"],
    ["video_writing"],
    ["video_io"],
    ["sources", "loading", "model_digest", "flow_stream", "sound_stream", "conversion"],
    ["predictor", "data", "reports", "visualization"],
    ["pipeline_video_saliency", "baselines"],
    ["scoring"],
    ["training"],
    ["cli"],
]
OPTIONAL = ("av", "scipy", "peft", "datasets", "gradio", "torchvision", "evaluate", "accelerate", "pyarrow", "cv2")


def layer_of(module: str) -> int:
    first = module.split(".")[0]
    return next(number for number, names in enumerate(LAYERS) if first in names)


def package_imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("video_saliency") for alias in node.names), "use from-imports"
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module != "video_saliency", f"{path}: import from a module, not from the package"
            if node.module.startswith("video_saliency."):
                found.append(node.module.removeprefix("video_saliency."))
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downward(path):
    module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
    if module == "__init__":
        return  # the top: it registers everything
    for imported in package_imports(path):
        same_package = "." in module and module.split(".")[0] == imported.split(".")[0]
        assert layer_of(imported) < layer_of(module) or same_package, f"{module} imports {imported}"
        if module.startswith("models.") and imported.startswith("models.") and module != "models.auto":
            assert module.split(".")[1] == imported.split(".")[1], f"{module} imports a sibling model"


def test_base_names_are_unique():
    # files are flattened into one folder for repositories that carry their code
    names = [path.name for path in SOURCE.rglob("*.py") if path.name != "__init__.py" and "cli" not in path.parts]
    assert sorted(names) == sorted(set(names))


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_registers_and_pulls_in_nothing_more_than_transformers():
    theirs = loaded_after("from transformers import AutoModel, AutoProcessor\nimport transformers.pipelines")
    ours = loaded_after("import video_saliency") - theirs
    assert not [name for name in ours if name.split(".")[0] in OPTIONAL]
    foreign = {name.split(".")[0] for name in ours} - {name.split(".")[0] for name in theirs} - {"video_saliency"}
    assert {name for name in foreign if name not in sys.stdlib_module_names} == set()


def test_no_import_hooks():
    hooks = "import sys; print([type(f).__name__ for f in sys.meta_path], len(sys.path_hooks))"
    theirs, ours = (
        subprocess.run([sys.executable, "-c", f"{what}; {hooks}"], capture_output=True, text=True, check=True).stdout
        for what in ("import transformers.pipelines", "import transformers.pipelines, video_saliency")
    )
    assert ours == theirs
