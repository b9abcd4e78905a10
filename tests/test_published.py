"""Published tokenizers: the architecture is theirs, to the last weight; files of weights go in and nothing else."""
from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from vaelite.errors import VaeliteError
from vaelite.models.published import PublishedVAE, convert_checkpoint, load_published


def shapes(layout: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(p.shape) for name, p in PublishedVAE(layout).state_dict().items()}


def test_kl_f8_has_the_83_653_863_weights_of_the_published_one():
    """The number that latent diffusion's first-stage model is known for."""
    with torch.device("meta"):
        assert sum(p.numel() for p in PublishedVAE("kl-f8").parameters()) == 83_653_863


def test_kl_f16_has_the_published_names_and_shapes():
    found = shapes("kl-f16")
    expected = {"encoder.conv_in.weight": (128, 3, 3, 3), "encoder.down.2.block.0.nin_shortcut.weight": (256, 128, 1, 1),
                "encoder.down.3.downsample.conv.weight": (256, 256, 3, 3), "encoder.down.4.attn.1.proj_out.weight": (512, 512, 1, 1),
                "encoder.mid.attn_1.q.weight": (512, 512, 1, 1), "encoder.conv_out.weight": (32, 512, 3, 3),
                "quant_conv.weight": (32, 32, 1, 1), "post_quant_conv.weight": (16, 16, 1, 1),
                "decoder.conv_in.weight": (512, 16, 3, 3), "decoder.up.4.attn.2.k.weight": (512, 512, 1, 1),
                "decoder.up.4.upsample.conv.weight": (512, 512, 3, 3), "decoder.up.0.block.2.conv2.weight": (128, 128, 3, 3),
                "decoder.conv_out.weight": (3, 128, 3, 3)}
    assert {name: found.get(name) for name in expected} == expected
    assert "encoder.down.4.downsample.conv.weight" not in found and "decoder.up.0.upsample.conv.weight" not in found


@pytest.mark.parametrize(("layout", "factor", "channels"), [("kl-f16", 16, 16), ("kl-f8", 8, 4)])
def test_compression_is_what_the_name_says(layout, factor, channels):
    vae = PublishedVAE(layout, base=32).eval()
    with torch.no_grad():
        z = vae.encode(torch.zeros(1, 1, 64, 64)).mean
        assert z.shape == (1, channels, 64 // factor, 64 // factor) and vae.decode(z).shape == (1, 1, 64, 64)


def test_weights_survive_conversion_and_loading(tmp_path):
    torch.manual_seed(0)
    vae = PublishedVAE("kl-f16", base=32).eval()             # a quarter of the width: quick
    torch.save({"model": vae.state_dict() | {"loss.logvar": torch.zeros(())}}, tmp_path / "kl16.ckpt")
    convert_checkpoint(tmp_path / "kl16.ckpt", tmp_path / "kl16.safetensors")
    again = load_published(tmp_path / "kl16.safetensors", "kl-f16", base=32)
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(again.decode(again.encode(x).mean), vae.decode(vae.encode(x).mean))


def test_other_files_are_refused_in_one_sentence(tmp_path):
    with pytest.raises(VaeliteError, match="does not exist"):
        load_published(tmp_path / "nothing.safetensors")
    save_file({"encoder.conv_in.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(VaeliteError, match="does not hold the weights of kl-f16"):
        load_published(tmp_path / "other.safetensors")
    (tmp_path / "text.ckpt").write_text("no weights")
    with pytest.raises(VaeliteError, match="cannot be read"):
        convert_checkpoint(tmp_path / "text.ckpt", tmp_path / "out.safetensors")
    torch.save(torch.zeros(3), tmp_path / "lone.ckpt")
    torch.save({"classifier.weight": torch.zeros(3)}, tmp_path / "classifier.ckpt")
    for name in ("lone", "classifier"):
        with pytest.raises(VaeliteError, match=f"{name}.ckpt holds no tokenizer"):
            convert_checkpoint(tmp_path / f"{name}.ckpt", tmp_path / "none.safetensors")
    assert not (tmp_path / "none.safetensors").exists()
