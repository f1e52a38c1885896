"""SAM against the released PyTorch modules with random weights; sizes against the published ones."""

import functools
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from equipoise.engine import models
from equipoise.engine.errors import UserError
from equipoise.engine.models import lora, published, sam

KEY = jax.random.key(0)
TINY = {
    "width": 32, "depth": 2, "heads": 2, "window": 3, "global_blocks": (1,), "out_width": 32,
    "decoder_heads": 4, "decoder_hidden": 24,
}  # fmt: skip
SIZE = 64, 96


def _abstract(size, **fields):
    model = models.build("sam", **fields)
    return jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, size, size, 3))))["params"]


@pytest.mark.parametrize(
    ("name", "encoder", "whole"),
    [
        ("b", 89_670_912, 93_735_472),
        ("l", 308_278_272, 312_342_832),
        ("h", 637_026_048, 641_090_608),
    ],
)
def test_published_sizes(name, encoder, whole):
    params = _abstract(1024, num_outputs=4, **sam.SIZES[name])
    assert models.num_parameters(params["encoder"]) == encoder
    assert models.num_parameters(params) == whole


def test_sizes_of_samed():
    params = _abstract(512, num_outputs=3, lora_rank=4)
    adapters = [x for k, x in jax.tree.leaves_with_path(params["encoder"]) if "lora" in str(k)]
    assert models.num_parameters(adapters) == 147_456
    assert models.num_parameters(params["encoder"]) - 147_456 == 87_278_848
    assert models.num_parameters(params["prompts"]) == 6_220
    assert models.num_parameters(params["decoder"]) == 3_918_019
    assert models.num_parameters(params["decoder"]["transformer"]) == 3_291_264


def _fresh(model, value=np.zeros):
    """Random variables in the model's shapes, without compiling the model's own way to draw them."""
    shapes = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, *SIZE, 3))))
    return jax.tree.map(lambda x: jnp.asarray(value(x.shape), x.dtype), shapes)


@pytest.fixture(scope="module")
def reference():
    """The released modules; their package imports torchvision, but they do not use it."""
    torch = pytest.importorskip("torch")
    stubs = {
        "torchvision": (),
        "torchvision.ops": (),
        "torchvision.ops.boxes": ("batched_nms", "box_area"),
        "torchvision.transforms": (),
        "torchvision.transforms.functional": ("resize", "to_pil_image"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, members in stubs.items():
            module = types.ModuleType(name)
            vars(module).update(dict.fromkeys(members))
            patch.setitem(sys.modules, name, module)
        package = pytest.importorskip("segment_anything.modeling")
    torch.manual_seed(0)
    grid = tuple(n // 16 for n in SIZE)
    encoder = package.ImageEncoderViT(
        img_size=64, patch_size=16, embed_dim=32, depth=2, num_heads=2, out_chans=32, qkv_bias=True,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True, window_size=3,
        global_attn_indexes=(1,),
    )  # fmt: skip
    # the released class knows square images alone
    encoder.pos_embed = torch.nn.Parameter(torch.zeros(1, *grid, 32))
    attention = encoder.blocks[1].attn
    attention.rel_pos_h, attention.rel_pos_w = (
        torch.nn.Parameter(torch.zeros(2 * n - 1, attention.rel_pos_h.shape[1])) for n in grid
    )
    prompts = package.PromptEncoder(
        embed_dim=32, image_embedding_size=grid, input_image_size=SIZE, mask_in_chans=16
    )
    transformer = package.TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=24, num_heads=4)
    decoder = package.MaskDecoder(
        num_multimask_outputs=3, transformer=transformer, transformer_dim=32, iou_head_hidden_dim=32
    )
    net = torch.nn.ModuleDict({"image_encoder": encoder, "prompt_encoder": prompts, "mask_decoder": decoder})
    for value in net.parameters():
        value.data += 0.2 * torch.randn_like(value)  # no table of zeros, no scale of ones
    return net.eval()


@pytest.fixture(scope="module")
def ours(reference, tmp_path_factory):
    """(model, variables) with the reference's weights, which pass through a file."""
    import torch

    path = tmp_path_factory.mktemp("weights") / "sam.pth"
    torch.save(reference.state_dict(), path)
    model = models.build("sam", num_outputs=4, **TINY)
    return model, published.load(path, _fresh(model))


def _close(what, got, expected, tolerance):
    expected = expected.detach().numpy()
    difference = np.abs(np.asarray(got) - expected).max()
    print(f"{what}: maximum difference {difference:.1e} of {np.abs(expected).max():.2f}")
    assert got.shape == expected.shape
    assert difference < tolerance


def _image(rng, channels=3):
    return rng.normal(size=(2, *SIZE, channels)).astype(np.float32)


def test_encoder_is_the_released_one(reference, ours, rng):
    import torch

    model, variables = ours
    image = _image(rng)
    expected = reference["image_encoder"](torch.from_numpy(image).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    features = jax.jit(functools.partial(model.apply, method="encode"))(variables, image)
    assert list(features) == ["block1", "block2", "neck"]
    _close("embedding", features["neck"], expected, 2e-5)


PROMPTS = {
    "none": (),
    "points": ("points", "labels"),
    "box": ("boxes",),
    "all": ("points", "labels", "boxes", "masks"),
}


@pytest.mark.parametrize("names", PROMPTS.values(), ids=PROMPTS)
def test_masks_are_those_of_the_released_model(reference, ours, rng, names):
    import torch

    model, variables = ours
    embedding = rng.normal(size=(2, 4, 6, 32)).astype(np.float32)
    given = {
        "points": rng.uniform(0, 64, (2, 3, 2)).astype(np.float32),
        "labels": np.asarray([[1, 0, -1], [0, 1, 1]]),
        "boxes": np.sort(rng.uniform(0, 64, (2, 2, 2)), 1).reshape(2, 4).astype(np.float32),
        "masks": rng.normal(size=(2, 16, 24, 1)).astype(np.float32),
    }
    given = {name: given[name] for name in names}
    prompt, decode = reference["prompt_encoder"], reference["mask_decoder"]
    theirs = {name: torch.from_numpy(value) for name, value in given.items()}
    maps = torch.from_numpy(embedding).permute(0, 3, 1, 2)
    expected = []
    for n in range(2):
        points = (theirs["points"][n : n + 1], theirs["labels"][n : n + 1]) if "points" in names else None
        mask = theirs["masks"][n : n + 1].permute(0, 3, 1, 2) if "masks" in names else None
        box = theirs["boxes"][n : n + 1] if "boxes" in names else None
        sparse, dense = prompt(points, box, mask)
        expected.append(decode.predict_masks(maps[n : n + 1], prompt.get_dense_pe(), sparse, dense))
    masks, quality = (torch.cat(x) for x in zip(*expected, strict=True))
    got, got_quality = jax.jit(functools.partial(model.apply, method="decode"))(variables, embedding, **given)
    _close("masks", got, masks.permute(0, 2, 3, 1), 1e-4)
    _close("quality", got_quality, quality, 2e-5)


def test_sam_answers_with_one_mask_or_several_and_samed_with_all(ours, rng):
    model, variables = ours
    image, boxes = jnp.asarray(_image(rng)), jnp.asarray([[4.0, 5, 30, 40]] * 2)

    @jax.jit
    def run(variables):
        segment = functools.partial(model.apply, variables, image, method="segment")
        embedding = model.apply(variables, image, method="encode")["neck"]
        decode = functools.partial(model.apply, variables, embedding, method="decode")
        return (
            (*segment(multimask=True, boxes=boxes), *segment(multimask=False, boxes=boxes)),
            decode(boxes=boxes),
            (model.apply(variables, image)[0], decode()[0]),
        )

    (several, several_quality, one, one_quality), (masks, quality), (samed, unprompted) = run(variables)
    for got, expected in (
        (several, masks[..., 1:]),
        (one, masks[..., :1]),
        (several_quality, quality[:, 1:]),
        (one_quality, quality[:, :1]),
        (samed, unprompted),
    ):
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.slow
def test_gradients_are_those_of_the_released_model(reference, ours, rng):
    import torch

    model, variables = ours
    image, probe = _image(rng), rng.normal(size=(2, 16, 24, 4)).astype(np.float32)
    reference.zero_grad()
    prompt, decode = reference["prompt_encoder"], reference["mask_decoder"]
    embedding = reference["image_encoder"](torch.from_numpy(image).permute(0, 3, 1, 2))
    for n in range(2):
        masks, _ = decode.predict_masks(
            embedding[n : n + 1], prompt.get_dense_pe(), *prompt(None, None, None)
        )
        (masks.permute(0, 2, 3, 1) * torch.from_numpy(probe[n])).sum().backward(retain_graph=n == 0)

    def loss(params, remat):
        output, _ = model.clone(remat=remat).apply(variables | {"params": params}, jnp.asarray(image))
        return (output * probe).sum()

    whole, saving = (
        jax.jit(jax.grad(functools.partial(loss, remat=r)))(variables["params"]) for r in (False, True)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * abs(a).max()), whole, saving)
    block, twin = whole["encoder"]["block2"], reference["image_encoder"].blocks[1]
    for what, got, expected in (
        ("qkv", block["attention"]["qkv"]["kernel"].T, twin.attn.qkv.weight),
        ("rows", block["attention"]["relative_row"], twin.attn.rel_pos_h),
        ("columns", block["attention"]["relative_column"], twin.attn.rel_pos_w),
        ("mlp", block["mlp"]["dense1"]["kernel"].T, twin.mlp.lin1.weight),
        ("no mask", whole["prompts"]["no_mask"][None], prompt.no_mask_embed.weight),
    ):
        _close(what, got, expected.grad, 2e-4 * float(expected.grad.abs().max()))


def test_one_channel_is_repeated(ours, rng):
    model, variables = ours
    image, run = _image(rng, 1), jax.jit(model.apply)
    np.testing.assert_array_equal(run(variables, image)[0], run(variables, np.repeat(image, 3, -1))[0])


def test_bfloat16_is_near(ours, rng):
    model, variables = ours
    image = _image(rng)
    exact, _ = jax.jit(model.apply)(variables, image)
    narrow, features = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, image)
    assert narrow.dtype == jnp.float32
    assert features["neck"].dtype == jnp.bfloat16
    assert np.corrcoef(exact.ravel(), narrow.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((1, 64, 90, 3), {}, "e.g. to 64x96"),
        ((1, 64, 64, 2), {}, "1 or 3 channels"),
        ((1, 64, 64, 64, 1), {}, "2D images"),
        ((1, 64, 64, 1), {"lora_rank": 2, "lora_targets": "nowhere"}, "matches no kernel"),
        ((1, 64, 64, 1), {"attention": "cuddn"}, "Did you mean 'cudnn'"),
    ],
)
def test_what_does_not_fit_is_said(shape, fields, message):
    model = models.build("sam", num_outputs=3, **TINY, **fields)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: model.init(KEY, jnp.zeros(shape)))


def test_merged_adapters_are_applied_adapters(rng):
    targets = r"qkv/[qkv]$|mlp/dense1$|decoder/transformer/.*/[qv]$"
    adapted = models.build("sam", num_outputs=3, lora_rank=3, lora_targets=targets, **TINY)
    plain = models.build("sam", num_outputs=3, **TINY)
    image = _image(rng, 1)
    variables = _fresh(adapted, lambda shape: 0.2 * rng.normal(size=shape))
    merged = variables | {"params": lora.merge(variables["params"])}
    assert jax.tree.structure(merged) == jax.tree.structure(_fresh(plain))
    got, expected = jax.jit(adapted.apply)(variables, image)[0], jax.jit(plain.apply)(merged, image)[0]
    np.testing.assert_allclose(got, expected, atol=1e-4 * float(abs(expected).max()))


def test_an_adapter_is_the_textbook_product(rng):
    dense = lora.Dense(12, rank=2, targets="^[qv]$", packed=True, name="qkv")
    x = jnp.asarray(rng.normal(size=(5, 6)), jnp.float32)
    variables = dense.init(KEY, x)
    np.testing.assert_array_equal(dense.apply(variables, x), x @ variables["params"]["kernel"])
    own = jax.tree.map(lambda p: p + jnp.asarray(rng.normal(size=p.shape), p.dtype), variables["params"])
    assert set(own) == {"kernel", "bias", "lora_q_a", "lora_q_b", "lora_v_a", "lora_v_b"}
    expected = np.array(x @ own["kernel"] + own["bias"])
    expected[:, :4] += x @ own["lora_q_a"] @ own["lora_q_b"]
    expected[:, 8:] += x @ own["lora_v_a"] @ own["lora_v_b"]
    np.testing.assert_allclose(dense.apply({"params": own}, x), expected, atol=1e-5)
    wide = lora.Dense(4, rank=4, targets="", name="d").init(KEY, jnp.zeros((1, 400)))["params"]["lora_a"]
    assert 0.98 / 20 < abs(wide).max() <= 1 / 20  # uniform within the inverse root of the inputs
    assert abs(wide).mean() == pytest.approx(1 / 40, rel=0.05)
