"""FID's Inception v3: shapes, resize, and the features that torch-fidelity 0.4.0's own network gave with the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from genlib import random
from genlib.metrics import features
from genlib.metrics.inception import InceptionV3, tensorflow_bilinear


def weights() -> dict[str, Tensor]:
    """Random ones under the published names, keyed by name, of a size that keeps the signal."""
    state = {name: value for name, value in InceptionV3().state_dict().items() if not name.endswith("num_batches_tracked")}
    for name, value in state.items():
        noise = random.normal(torch.tensor([0]), (value.numel(),), seed=0, stream=name)[0].view(value.shape)
        if value.dim() > 1:
            state[name] = noise * (2 / value[0].numel()) ** 0.5
        else:
            state[name] = (1 + 0.1 * noise).abs() if name.endswith(("running_var", "bn.weight")) else 0.1 * noise
    return state


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    save_file(weights(), path)
    return path


def test_same_features_as_torch_fidelity(file: Path) -> None:
    network = features.load(file)
    picture = (torch.arange(40 * 32 * 3).view(1, 3, 40, 32) * 37 % 256).to(torch.uint8)
    found, logits = network(picture)
    assert (found.shape, logits.shape) == ((1, 2048), (1, 1008))
    expected = [0.049703, 2.104411, 0.0, 0.110146, 0.213208, 1.758477, 0.76262, 0.029798]
    torch.testing.assert_close(found[0, ::256], torch.tensor(expected), atol=2e-5, rtol=0)
    expected = [-0.816354, -1.727098, -1.965985, -0.059526, -0.938117, 0.544467, -0.709659, -0.180702]
    torch.testing.assert_close(logits[0, ::126], torch.tensor(expected), atol=5e-5, rtol=0)
    assert network.name == f"inception-{network.sha256[:8]}"
    assert torch.equal(network(picture[:, :1])[0], network(picture[:, :1].expand(-1, 3, -1, -1))[0])


def test_published_size() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in InceptionV3().parameters()) == 23_850_960


def test_tensorflows_resize_starts_at_the_corner_and_is_not_smoothed() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    assert tensorflow_bilinear(ramp, 8)[0, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
    assert tensorflow_bilinear(ramp, 2)[0, 0, 0].tolist() == [0, 2]
    torch.testing.assert_close(tensorflow_bilinear(ramp, 4), ramp)


def test_files_that_are_not_the_weights_are_refused(file: Path, tmp_path: Path) -> None:
    pickle = tmp_path / "pt_inception-2015-12-05.pth"
    pickle.write_bytes(b"\x80\x02")
    with pytest.raises(ValueError, match=r"pth may hold code .* convert it where you trust it"):
        features.load(pickle)
    (tmp_path / "text.safetensors").write_text("hello, this is no header")
    with pytest.raises(ValueError, match="is no safetensors file"):
        features.load(tmp_path / "text.safetensors")
    state = weights()
    save_file({**state, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"weight fc.weight is \(1000, 2048\) in the file and \(1008, 2048\) in FID's"):
        features.load(tmp_path / "other.safetensors")
    del state["Conv2d_1a_3x3.bn.bias"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"weight Conv2d_1a_3x3\.bn\.bias is not there in the file"):
        features.load(tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match="is no feature network: no file, run or checkpoint"):
        features.load(tmp_path / "nothing")
