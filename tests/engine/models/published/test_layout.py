"""Published parameters in our models: what is resized, what stays fresh, what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.engine import models
from equipoise.engine.config import Model, Run
from equipoise.engine.errors import UserError
from equipoise.engine.models import published
from equipoise.engine.training.step import init_state
from equipoise.engine.update import optim

KEY = jax.random.key(0)
SAM = {
    "width": 16, "depth": 2, "heads": 2, "window": 2, "global_blocks": (1,), "out_width": 16,
    "decoder_heads": 4, "decoder_hidden": 8,
}  # fmt: skip


def _variables(size=64, num_outputs=4, fill=0.0, **fields):
    model = models.build("sam", num_outputs=num_outputs, **SAM, **fields)
    shapes = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, size, size, 3))))
    return jax.tree.map(lambda x: jnp.full(x.shape, fill, x.dtype), shapes)


def _published(rng):
    """A state dictionary of SAM: its names, and shapes for images of 64 x 64."""
    linear = lambda name, a, b: {f"{name}.weight": (b, a), f"{name}.bias": (b,)}  # noqa: E731
    norm = lambda name, n: {f"{name}.weight": (n,), f"{name}.bias": (n,)}  # noqa: E731
    shapes = {"image_encoder.pos_embed": (1, 4, 4, 16)}
    shapes |= {
        "image_encoder.patch_embed.proj.weight": (16, 3, 16, 16),
        "image_encoder.patch_embed.proj.bias": (16,),
    }
    for block, rows in ((0, 3), (1, 7)):
        at = f"image_encoder.blocks.{block}"
        shapes |= norm(f"{at}.norm1", 16) | norm(f"{at}.norm2", 16)
        shapes |= linear(f"{at}.attn.qkv", 16, 48) | linear(f"{at}.attn.proj", 16, 16)
        shapes |= {f"{at}.attn.rel_pos_h": (rows, 8), f"{at}.attn.rel_pos_w": (rows, 8)}
        shapes |= linear(f"{at}.mlp.lin1", 16, 64) | linear(f"{at}.mlp.lin2", 64, 16)
    shapes |= {"image_encoder.neck.0.weight": (16, 16, 1, 1), "image_encoder.neck.2.weight": (16, 16, 3, 3)}
    shapes |= norm("image_encoder.neck.1", 16) | norm("image_encoder.neck.3", 16)
    at = "prompt_encoder"
    shapes |= {f"{at}.pe_layer.positional_encoding_gaussian_matrix": (2, 8)}
    shapes |= {f"{at}.{name}.weight": (1, 16) for name in ("not_a_point_embed", "no_mask_embed")}
    shapes |= {f"{at}.point_embeddings.{n}.weight": (1, 16) for n in range(4)}
    for n, shape in ((0, (4, 1, 2, 2)), (3, (16, 4, 2, 2)), (6, (16, 16, 1, 1))):
        shapes |= {f"{at}.mask_downscaling.{n}.weight": shape, f"{at}.mask_downscaling.{n}.bias": shape[:1]}
    shapes |= norm(f"{at}.mask_downscaling.1", 4) | norm(f"{at}.mask_downscaling.4", 16)
    at = "mask_decoder"
    shapes |= {f"{at}.iou_token.weight": (1, 16), f"{at}.mask_tokens.weight": (4, 16)}
    shapes |= {f"{at}.output_upscaling.0.weight": (16, 4, 2, 2), f"{at}.output_upscaling.0.bias": (4,)}
    shapes |= {f"{at}.output_upscaling.3.weight": (4, 2, 2, 2), f"{at}.output_upscaling.3.bias": (2,)}
    shapes |= norm(f"{at}.output_upscaling.1", 4)
    heads = {f"output_hypernetworks_mlps.{n}": 2 for n in range(4)} | {"iou_prediction_head": 4}
    for name, outputs in heads.items():
        for layer, width in enumerate((16, 16, outputs)):
            shapes |= linear(f"{at}.{name}.layers.{layer}", 16, width)
    attentions = {f"layers.{n}.{kind}": 16 if kind == "self_attn" else 8
                  for n in range(2) for kind in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")}  # fmt: skip
    for name, width in (attentions | {"final_attn_token_to_image": 8}).items():
        for part in "qkv":
            shapes |= linear(f"{at}.transformer.{name}.{part}_proj", 16, width)
        shapes |= linear(f"{at}.transformer.{name}.out_proj", width, 16)
    for n in range(2):
        for number in range(1, 5):
            shapes |= norm(f"{at}.transformer.layers.{n}.norm{number}", 16)
        shapes |= linear(f"{at}.transformer.layers.{n}.mlp.lin1", 16, 8)
        shapes |= linear(f"{at}.transformer.layers.{n}.mlp.lin2", 8, 16)
    shapes |= norm(f"{at}.transformer.norm_final_attn", 16)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _safetensors(path, arrays):
    """The documented format: the length of a JSON header, the header, the bytes."""
    head, start = {"__metadata__": {"format": "pt"}}, 0
    for name, value in arrays.items():
        head[name] = {"dtype": "F32", "shape": value.shape, "data_offsets": [start, start + value.nbytes]}
        start += value.nbytes
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(v.tobytes() for v in arrays.values()))
    return path


def test_published_names_are_complete(rng, tmp_path):
    arrays = _published(rng)
    assert len(arrays) == 314 - 10 * 14  # of ViT-B, but for ten of its twelve blocks
    loaded = published.load(_safetensors(tmp_path / "sam.safetensors", arrays), _variables())
    params = loaded["params"]
    assert all(bool((leaf != 0).all()) for leaf in jax.tree.leaves(loaded))
    np.testing.assert_array_equal(
        params["encoder"]["block2"]["attention"]["qkv"]["kernel"],
        arrays["image_encoder.blocks.1.attn.qkv.weight"].T,
    )
    np.testing.assert_array_equal(
        params["prompts"]["points"][3], arrays["prompt_encoder.point_embeddings.2.weight"][0]
    )
    np.testing.assert_array_equal(
        params["decoder"]["up1"]["kernel"][1, 0], arrays["mask_decoder.output_upscaling.0.weight"][:, :, 1, 0]
    )


def test_another_size_resizes_tables_and_other_outputs_stay_fresh(rng, tmp_path):
    torch = pytest.importorskip("torch")
    arrays = _published(rng)
    path = _safetensors(tmp_path / "sam.safetensors", arrays)
    fresh = _variables(size=32, num_outputs=3, fill=7.0, lora_rank=1)
    params = published.load(path, fresh)["params"]
    table = torch.from_numpy(arrays["image_encoder.pos_embed"]).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(table, (2, 2), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(params["encoder"]["position"], expected[0].permute(1, 2, 0), atol=1e-6)
    rows = torch.from_numpy(arrays["image_encoder.blocks.1.attn.rel_pos_h"]).T[None]
    expected = torch.nn.functional.interpolate(rows, 3, mode="linear", align_corners=False)
    np.testing.assert_allclose(
        params["encoder"]["block2"]["attention"]["relative_row"], expected[0].T, atol=1e-6
    )
    is_fresh = jax.tree.map_with_path(
        lambda at, x: (jax.tree_util.keystr(at, simple=True, separator="/"), bool((x == 7).all())), params
    )
    named = dict(jax.tree.leaves(is_fresh, is_leaf=lambda x: isinstance(x, tuple)))
    kept = {name for name, fresh in named.items() if fresh}
    assert kept == {
        name for name in named
        if "lora_" in name or name.startswith(("decoder/mask", "decoder/quality/"))
    }  # fmt: skip
    assert "decoder/mask_tokens" in kept and "decoder/quality_token" not in kept


def test_what_does_not_fit_is_listed(rng, tmp_path):
    arrays = _published(rng)
    del arrays["image_encoder.neck.0.weight"]
    arrays["image_encoder.neck.3.bias"] = np.zeros(5, np.float32)
    arrays["image_encoder.extra"] = np.zeros(5, np.float32)
    path = _safetensors(tmp_path / "sam.safetensors", arrays)
    with pytest.raises(UserError) as caught:
        published.load(path, _variables())
    for line in (
        "lacks: encoder/neck_conv1/kernel",
        "has what the model does not: image_encoder.extra",
        "differs in: encoder/neck_norm2/bias (5,) there, (16,) here",
    ):
        assert line in str(caught.value)


def test_a_file_of_another_model_is_named(tmp_path):
    np.savez(tmp_path / "other.npz", conv1=np.zeros(3))
    with pytest.raises(UserError, match="neither SAM nor a vision transformer; it begins with conv1"):
        published.load(tmp_path / "other.npz", _variables())


def test_a_run_starts_from_a_file(rng, tmp_path):
    arrays = _published(rng)
    path = _safetensors(tmp_path / "sam.safetensors", arrays)
    config = Run(model=Model(name="sam", args=SAM, weights=str(path)))
    model = models.build("sam", num_outputs=3, **SAM)
    state = init_state(config, model, optim.make(config.optimizer), (64, 64, 1))
    np.testing.assert_array_equal(state.params["encoder"]["position"], arrays["image_encoder.pos_embed"][0])
    assert state.params["decoder"]["mask_tokens"].shape == (3, 16)
    assert all(bool((leaf == 0).all()) for leaf in jax.tree.leaves(state.opt_state))
