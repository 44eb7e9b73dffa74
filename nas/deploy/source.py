"""Export as one Python file that needs torch and safetensors alone: the traced network, written out operation by
operation, with its weights in a file beside it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import torch
from torch import fx

from nas import kernels
from nas.base.files import write_atomically
from nas.deploy.timm_folder import example_images
from nas.deploy.trained import TrainedNetwork
from nas.networks.plain_filters import with_plain_filters
from nas.training.result import save_weights

FILE = "model.py.safetensors"
"""Not the name of a timm export's, which may lie in the same folder, with other entries."""
HEAD = '''"""opnas network {key}: {num_classes} classes, images float32 [N, {channels}, {side}, {side}], normalised.

For inference, at this resolution, on any device and in any number format. `load()` reads the weights from the file
{file} beside this one.
Class names are in CLASSES; images are normalised with MEAN and STD of each channel, of values in 0..1.
Their shorter side is resized ({interpolation}) to {side} / {crop} pixels, and the centre square cut out.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import device, inf, nan, nn  # noqa: F401

CLASSES = {classes!r}
MEAN, STD = {mean!r}, {std!r}
BUFFERS = {buffers!r}


class Model(nn.Module):
    """The network; `state` are its weights and statistics by name."""

    def __init__(self, state):
        super().__init__()
        for name, tensor in state.items():
            *path, last = name.split(".")
            owner = self
            for part in path:
                if part not in owner._modules:
                    owner.add_module(part, nn.Module())
                owner = owner._modules[part]
            if name in BUFFERS or not tensor.is_floating_point():
                owner.register_buffer(last, tensor)
            else:
                owner.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
        self.eval()

'''
TAIL = '''

def load(folder=Path(__file__).parent):
    """The network with the weights in `folder`."""
    return Model(load_file(Path(folder) / "model.py.safetensors"))
'''


def export_source(trained: TrainedNetwork, folder: Path) -> Path:
    """Write model.py and model.py.safetensors to `folder`; returns model.py.

    On any device and in any number format: `load().to("cuda").half()`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images = example_images(trained, 3)
    model = with_plain_filters(trained.model(), images)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch", min=1, max=4096)
        program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
        program = program.run_decompositions(kernels.decompositions())
        graph = program.module(check_guards=False).graph
    head = HEAD.format(
        file=FILE,
        key=trained.described["key"],
        num_classes=trained.described["num_classes"],
        channels=trained.described["in_channels"],
        side=trained.resolution,
        classes=trained.class_names,
        mean=trained.preparation.mean,
        std=trained.preparation.std,
        crop=trained.preparation.crop,
        interpolation=trained.preparation.interpolation,
        buffers=[name for name, _ in model.named_buffers()],
    )
    path = folder / "model.py"
    write_atomically(path, head + _forward(graph) + TAIL)
    save_weights(model, folder / FILE)
    return path


def _forward(graph: fx.Graph) -> str:
    """The graph as a method `forward(self, images)`."""
    graph.set_codegen(fx.CodeGen())
    for node in list(graph.nodes):
        if node.op == "output":
            node.args = (node.args[0][0],) if isinstance(node.args[0], (list, tuple)) else node.args
    code = graph.python_code("self").src
    code = re.sub(r"def forward\(self, (\w+).*?\)[^:]*:", r"def forward(self, \1):", code, count=1)
    code = re.sub(r" : [\w.\[\]\", ]+(?= = )", "", code)
    lines = [line for line in code.strip().splitlines() if "torch.fx._symbolic" not in line]
    return "\n".join(f"    {line}" for line in lines) + "\n"
