"""InfoEnh against loops over samples, its invariances, its switches, and its use outside MMSA."""

import itertools
import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from MMSA_ext.errors import ConfigError
from MMSA_ext.models.infoenh import InfoEnh, InfoEnhConfig, InfoEnhOutput, TokenReadout
from MMSA_ext.models.losses import different_sentiment, info_nce
from MMSA_ext.models.optimal_transport import cosine_cost, sinkhorn

DIMS = {"text": 7, "audio": 5, "vision": 3}
LENGTHS = {"text": [9, 4, 2, 9, 6], "audio": [6, 12, 3, 7, 1], "vision": [8, 5, 8, 3, 5]}
LABELS = torch.tensor([-1.0, 2.0, 0.0, 0.4, -0.3])
POOLS = ("token_score", "token_norm", "kmax_per_channel")


def build(k: int = 4, d: int = 6, seed: int = 0, dims: dict = DIMS, **options) -> InfoEnh:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return InfoEnh(dims, k=k, d=d, **options)


def batch(pad: int = 0, rows: list[int] | None = None, filler: float = 9.0) -> tuple[dict, dict]:
    """Ragged sequences of some samples; padding holds garbage."""
    generator = torch.Generator().manual_seed(1)
    rows = list(range(5)) if rows is None else rows
    sequences, masks = {}, {}
    for name, width in DIMS.items():
        x = torch.randn(5, 12, width, generator=generator)[rows]
        lengths = torch.tensor(LENGTHS[name])[rows]
        longest = int(lengths.max()) + pad
        x = F.pad(x, (0, 0, 0, max(0, longest - 12)))[:, :longest]
        masks[name] = torch.arange(longest) < lengths[:, None]
        sequences[name] = x.masked_fill(~masks[name].unsqueeze(-1), filler)
    return sequences, masks


def run(model: InfoEnh, labels: torch.Tensor | None = LABELS, **options) -> InfoEnhOutput:
    return model(*batch(**options), labels)


# --- Feature Information Bottleneck ---


def pooled_by_loop(model: InfoEnh, name: str, x: torch.Tensor, length: int) -> tuple:
    """One sample of one modality, section 4.1 step by step: positions, e, z."""
    part, config = model.bottlenecks[name], model.config
    h = F.gelu(F.linear(x[:length], part.project[0].weight, part.project[0].bias))
    if config.pool == "kmax_per_channel":
        rows = h.sort(dim=0, descending=True).values[: config.k]
        kept = [-1] * config.k
    else:
        score = part.scorer(h)[:, 0] if config.pool == "token_score" else h.norm(dim=1)
        kept = sorted(sorted(range(length), key=lambda t: -score[t])[: config.k])
        rows = h[kept]
        if config.pool == "token_score":
            rows = rows * score[kept].sigmoid()[:, None]
        kept += [-1] * (config.k - len(kept))
    e = torch.zeros(config.k, config.d)
    e[: len(rows)] = rows
    g = part.gate(e).sigmoid()
    return kept, e, e * torch.where(g > 0.5, g, 0.0)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("gate", ["element", "token"])
def test_bottleneck_is_section_4_1(pool, gate):
    model = build(pool=pool, gate=gate)
    sequences, masks = batch()
    output = model(sequences, masks)
    for name, lengths in LENGTHS.items():
        for i, length in enumerate(lengths):
            kept, e, z = pooled_by_loop(model, name, sequences[name][i], length)
            assert output.selected[name][i].tolist() == kept
            torch.testing.assert_close(output.embeddings[name][i], e)
            torch.testing.assert_close(output.filtered[name][i], z)
            assert output.token_mask[name][i].tolist() == [r < length for r in range(4)]


@pytest.mark.parametrize("pool", POOLS)
def test_the_gradient_is_that_of_projecting_every_token(pool):
    """The kept tokens are projected apart from the ranking, which has no gradient."""
    model = build(pool=pool)
    sequences, masks = batch()
    sequences = {name: x.requires_grad_() for name, x in sequences.items()}
    leaves = [*model.bottlenecks.parameters(), *sequences.values()]
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))

    filtered = model(sequences, masks).filtered
    got = torch.autograd.grad(sum((z * weight).sum() for z in filtered.values()), leaves)
    looped = sum(
        (pooled_by_loop(model, name, sequences[name][i], length)[2] * weight).sum()
        for name, lengths in LENGTHS.items()
        for i, length in enumerate(lengths)
    )
    torch.testing.assert_close(got, torch.autograd.grad(looped, leaves))


def test_diagnostics_count_open_gates_of_existing_rows():
    output = run(build(d=5, gate="token"))
    for name in DIMS:
        opened = output.filtered[name].any(dim=-1)[output.token_mask[name]]
        got = output.diagnostics[f"kept_ratio_{name}"]
        torch.testing.assert_close(got, opened.float().mean())
        assert not got.requires_grad


def test_closed_gates_get_gradient_only_straight_through():
    """z = e * m: with the literal mask a closed gate's bias has no gradient."""
    gradients = {}
    for straight in (False, True):
        model = build(straight_through=straight, alignment=False)
        for part in model.bottlenecks.values():
            part.gate.bias.data.fill_(-20.0)  # all closed
        output = run(model, labels=None)
        assert not any(z.any() for z in output.filtered.values())
        sum(z.sum() for z in output.filtered.values()).backward()
        gradients[straight] = model.bottlenecks["text"].gate.weight.grad
    assert not gradients[False].any()
    assert gradients[True].any()


def test_threshold_moves_the_share_of_open_gates():
    low, high = (run(build(gate_threshold=t)).diagnostics["kept_ratio_text"] for t in (0.0, 0.9))
    assert low == 1
    assert high < 0.1


def test_random_gates_do_not_see_the_input_and_are_saved():
    model = build(gates="random", alignment=False)
    assert not any("gate" in name for name, _ in model.named_parameters())
    other = build(gates="random", alignment=False, seed=1)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(run(other).filtered, run(model).filtered)
    ratio = [
        (output.filtered["text"] / output.embeddings["text"])[0]
        for output in (run(model), model(*((batch(filler=0)[0] | {"text": torch.randn(5, 9, 7)}),
                                           batch()[1])))
    ]  # fmt: skip
    torch.testing.assert_close(ratio[0], ratio[1])


def test_sparsity_closes_gates():
    model = build(sparsity_weight=1.0, alpha=0.0, alignment=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=10)
    before = run(model).diagnostics["kept_ratio_audio"]
    for _ in range(50):
        optimizer.zero_grad()
        run(model).loss.backward()
        optimizer.step()
    assert run(model).diagnostics["kept_ratio_audio"] < before


# --- L_FIB ---


def test_loss_is_alpha_times_the_sum_over_modalities():
    output = run(build(alpha=0.7))
    terms = [
        info_nce(output.embeddings[m], output.filtered[m], different_sentiment(LABELS))
        for m in DIMS
    ]
    torch.testing.assert_close(output.loss, 0.7 * sum(terms))
    assert output.loss > 0


def test_labels_may_be_a_column_and_may_be_absent():
    model = build()
    torch.testing.assert_close(run(model, LABELS[:, None]).loss, run(model).loss)
    assert run(model, None).loss == 0


@pytest.mark.parametrize("rows", [torch.tensor([0, 1, 3]), torch.tensor([1, 1, 0, 1, 0]).bool()])
def test_loss_over_some_rows_is_that_of_their_batch(rows):
    model = build(feature_similarity="row_mean")
    chosen = torch.arange(5)[rows].tolist()
    want = run(model, LABELS[chosen], rows=chosen).loss
    torch.testing.assert_close(model.information_loss(run(model), LABELS, rows), want)


# --- Feature Information Alignment ---


@pytest.mark.parametrize("transport", ["barycentric_target", "source_pushforward"])
@pytest.mark.parametrize("cost_axis", ["token", "feature"])
@pytest.mark.parametrize("scale_plan", [True, False])
def test_alignment_is_section_4_2(transport, cost_axis, scale_plan):
    """Sample by sample and ordered pair by ordered pair, without masks: only existing tokens."""
    model = build(transport=transport, cost_axis=cost_axis, scale_plan=scale_plan)
    output = run(model)
    for i in range(5):
        z = {m: output.filtered[m][i][output.token_mask[m][i]] for m in DIMS}
        z |= {m: output.filtered[m][i] for m in DIMS} if cost_axis == "feature" else {}
        for m in DIMS:
            expected = [z[m]]
            for other in (o for o in DIMS if o != m):
                # One order of a pair is solved, the other is its transpose.
                first, second = sorted((m, other), key=list(DIMS).index)
                x, y = z[first], z[second]
                if cost_axis == "feature":
                    x, y = x.T, y.T
                plan = sinkhorn(cosine_cost(x, y), 50).plan
                source, target = (x, y) if m == first else (y, x)
                plan = plan if m == first else plan.T
                n_i, n_j = plan.shape
                shown = output.plans[m, other][i]
                torch.testing.assert_close(shown[:n_i, :n_j], plan)
                assert not shown[n_i:].any()
                assert not shown[:, n_j:].any()
                if transport == "barycentric_target":
                    moved = (n_i if scale_plan else 1) * plan @ target
                else:
                    moved = (n_j if scale_plan else 1) * plan.T @ source
                expected.append(moved.T if cost_axis == "feature" else moved)
            got = output.enhanced[m][i].split(6, dim=-1)
            for part, want in zip(got, expected, strict=True):
                torch.testing.assert_close(part[: len(want)], want)
                assert not part[len(want) :].any()


def test_masks_of_enhanced_rows():
    """Rows of a push-forward are tokens of the other modality, so they exist where any does."""
    own, union = run(build()), run(build(transport="source_pushforward"))
    for name, lengths in LENGTHS.items():
        assert own.mask[name].sum(1).tolist() == [min(length, 4) for length in lengths]
    longest = [min(4, max(per_sample)) for per_sample in zip(*LENGTHS.values(), strict=True)]
    assert union.mask["audio"].sum(1).tolist() == longest
    assert union.token_mask["audio"].sum(1).tolist() == own.mask["audio"].sum(1).tolist()
    assert run(build(cost_axis="feature")).mask["audio"].equal(union.mask["audio"])
    both = run(build(cost_axis="feature", transport="source_pushforward"))
    assert both.mask["audio"].equal(own.mask["audio"])


def test_controls_have_the_marginals_of_the_plan():
    """Uniform: the product of the masses. Shuffled: the same plan, other rows."""
    plans = {plan: run(build(plan=plan)).plans for plan in ("sinkhorn", "uniform", "shuffled")}
    for i in range(5):
        rows, columns = (min(4, LENGTHS[m][i]) for m in ("text", "vision"))
        solved, uniform, shuffled = (
            plans[p]["text", "vision"][i] for p in ("sinkhorn", "uniform", "shuffled")
        )
        torch.testing.assert_close(
            uniform[:rows, :columns], torch.full((rows, columns), 1 / rows / columns)
        )
        assert uniform.count_nonzero() == rows * columns
        turned = solved.clone()
        turned[:rows] = solved[:rows].roll(-(rows // 2), dims=0)
        torch.testing.assert_close(shuffled, turned)


def test_plan_diagnostics():
    uniform, solved = run(build(plan="uniform")), run(build())
    assert uniform.diagnostics["plan_entropy"].item() == pytest.approx(1, abs=1e-5)
    assert uniform.diagnostics["iterations"] == 0
    assert solved.diagnostics["plan_entropy"] < 0.95
    assert solved.diagnostics["transport_cost"] < uniform.diagnostics["transport_cost"]
    assert 1 <= solved.diagnostics["iterations"] <= 100
    costs = []
    for i, (a, b) in itertools.product(range(5), itertools.combinations(DIMS, 2)):
        z = [solved.filtered[m][i][solved.token_mask[m][i]] for m in (a, b)]
        cost = cosine_cost(*z)
        costs.append((sinkhorn(cost, 50).plan * cost).sum())
    torch.testing.assert_close(solved.diagnostics["transport_cost"], torch.stack(costs).mean())


@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_modalities(count):
    dims = {f"m{i}": 3 + i for i in range(count)}
    model = build(dims=dims)
    x = {m: torch.randn(3, 5, width) for m, width in dims.items()}
    output = model(x, {m: torch.ones(3, 5, dtype=torch.bool) for m in dims}, LABELS[:3])
    assert model.enhanced_dim == 6 * count
    assert {e.shape for e in output.enhanced.values()} == {(3, 4, 6 * count)}
    assert set(output.plans) == set(itertools.permutations(dims, 2))


# --- The readout ---


@pytest.mark.parametrize("normalise", [True, False])
def test_readout_is_norm_linear_gelu_mean_linear(normalise):
    readout = TokenReadout(6, 8, 5, normalise=normalise)
    tokens, mask = torch.randn(2, 4, 6), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    got = readout(tokens, mask)
    for i, n in enumerate((4, 2)):
        read = F.layer_norm(tokens[i, :n], (6,)) if normalise else tokens[i, :n]
        want = readout.output(F.gelu(readout.token[0](read)).mean(0))
        torch.testing.assert_close(got[i], want)


def test_normalised_vectors_tell_samples_apart_from_the_start():
    model = build(k=8, d=64).eval()
    enhanced = model(*batch()).enhanced["text"]
    mask = torch.ones(enhanced.shape[:2], dtype=torch.bool)
    spread = {}
    for normalise in (True, False):
        torch.manual_seed(0)
        readout = TokenReadout(model.enhanced_dim, 64, 32, normalise=normalise)
        spread[normalise] = readout(enhanced, mask).std(0).mean()
    assert spread[True] > 5 * spread[False]


# --- Invariances ---

SHAPES = [
    {},
    {"transport": "source_pushforward"},
    {"cost_axis": "feature"},
    {"plan": "shuffled"},
    {"pool": "token_norm", "gate": "token"},
    {"pool": "kmax_per_channel"},
    {"bottleneck": False},
    {"alignment": False},
]


def results(output: InfoEnhOutput) -> dict[str, torch.Tensor]:
    parts = ("enhanced", "mask", "embeddings", "filtered", "token_mask", "selected", "plans")
    return {
        f"{part}.{key}": value for part in parts for key, value in getattr(output, part).items()
    }


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_neither_padding_nor_the_batch_changes_anything(options):
    model = build(**options)
    want, padded = run(model), run(model, pad=7, filler=-50.0)
    torch.testing.assert_close(results(padded), results(want))
    torch.testing.assert_close(padded.loss, want.loss)
    torch.testing.assert_close(padded.diagnostics, want.diagnostics)
    for i in range(5):
        alone = results(run(model, LABELS[[i]], rows=[i]))
        torch.testing.assert_close(alone, {key: x[[i]] for key, x in results(want).items()})


def test_the_order_of_tokens_changes_only_the_order_of_rows():
    model = build()
    readout = TokenReadout(18, 8, 5)
    x = {m: torch.randn(2, 8, width) for m, width in DIMS.items()}
    masks = {m: torch.ones(2, 8, dtype=torch.bool) for m in DIMS}
    order = torch.randperm(8)
    want, got = model(x, masks), model(x | {"audio": x["audio"][:, order]}, masks)
    for name in DIMS:
        torch.testing.assert_close(
            readout(got.enhanced[name], got.mask[name]),
            readout(want.enhanced[name], want.mask[name]),
        )
    came_from = order[got.selected["audio"]].sort(dim=1).values
    assert came_from.equal(want.selected["audio"])


def test_equal_ranks_are_taken_from_the_front_whatever_the_padding():
    model = build()
    torch.nn.init.zeros_(model.bottlenecks["text"].scorer.weight)
    for pad in (0, 30):
        selected = run(model, pad=pad).selected["text"]
        assert (
            selected.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, -1, -1]] + [[0, 1, 2, 3]] * 2
        )


# --- Hostile inputs ---


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, None])
@pytest.mark.parametrize(
    "options",
    [{"ot_loss_weight": 0.1}, {"pool": "kmax_per_channel"}, {"cost_axis": "feature"},
     {"pool": "token_norm"}, {"double_exp": True, "feature_similarity": "row_mean"}],
    ids=str,
)  # fmt: skip
def test_no_nan(dtype, options):
    """Zero rows, no valid token, k larger than the sample, all gates closed, low precision."""
    model = build(k=20, **options)
    for part in model.bottlenecks.values():
        torch.nn.init.zeros_(part.project[0].bias)  # zero tokens become zero rows of e
    model.bottlenecks["vision"].gate.bias.data.fill_(-20.0)
    sequences, masks = batch(filler=0.0)
    sequences["audio"][:2] = 0
    masks["text"][3] = False
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        output = model(sequences, masks, LABELS)
        readout = TokenReadout(model.enhanced_dim, 4, 2)
        loss = output.loss + sum(
            readout(output.enhanced[m], output.mask[m]).float().square().sum() for m in DIMS
        )
    loss.backward()
    values = results(output) | {"loss": loss} | output.diagnostics
    assert all(value.isfinite().all() for value in values.values())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_sample_without_valid_tokens_counts_its_first():
    model = build()
    sequences, masks = batch()
    first = {m: mask.clone() for m, mask in masks.items()}
    masks["audio"][1] = False
    first["audio"][1] = torch.arange(first["audio"].shape[1]) == 0
    torch.testing.assert_close(results(model(sequences, masks)), results(model(sequences, first)))


# --- Switches ---

# What each option must change, against the default (or against the base given with it).
SWITCHES = {
    "k": ({"k": 3}, "embeddings", {}),
    "d": ({"d": 5}, "embeddings", {}),
    "activation": ({"activation": "relu"}, "embeddings", {}),
    "pool": ({"pool": "token_norm"}, "embeddings", {}),
    "gate": ({"gate": "token"}, "filtered", {}),
    "gates": ({"gates": "random"}, "filtered", {}),
    "gate_threshold": ({"gate_threshold": 0.6}, "filtered", {}),
    "straight_through": ({"straight_through": True}, "gradient", {}),
    "sparsity_weight": ({"sparsity_weight": 0.1}, "loss", {}),
    "bottleneck": ({"bottleneck": False}, "filtered", {}),
    "alignment": ({"alignment": False}, "enhanced", {}),
    "without_alignment": ({"without_alignment": "repeat"}, "enhanced", {"alignment": False}),
    "alpha": ({"alpha": 0.2}, "loss", {}),
    "temperature": ({"temperature": 0.5}, "loss", {}),
    "double_exp": ({"double_exp": True}, "loss", {}),
    "feature_similarity": ({"feature_similarity": "row_mean"}, "loss", {}),
    "include_positive": ({"include_positive": False}, "loss", {}),
    "negatives": ({"negatives": "rounded"}, "loss", {}),
    "negative_distance": ({"negative_distance": 2.5}, "loss", {"negatives": "distance"}),
    "transport": ({"transport": "source_pushforward"}, "enhanced", {}),
    "cost_axis": ({"cost_axis": "feature"}, "enhanced", {}),
    "scale_plan": ({"scale_plan": False}, "enhanced", {}),
    "inverse_temperature": ({"inverse_temperature": 5.0}, "enhanced", {}),
    "max_iterations": ({"max_iterations": 1}, "enhanced", {}),
    "tolerance": ({"tolerance": 1e-5}, "enhanced", {}),
    "plan": ({"plan": "shuffled"}, "enhanced", {}),
    "detach_plan": ({"detach_plan": True}, "gradient", {}),
    "ot_loss_weight": ({"ot_loss_weight": 0.1}, "loss", {}),
}
STAGES = ("embeddings", "filtered", "enhanced")


def test_every_option_is_tested():
    assert set(SWITCHES) == set(InfoEnhConfig.model_fields)


@pytest.mark.parametrize("option", SWITCHES)
def test_every_option_changes_its_part_and_nothing_before(option):
    change, part, base = SWITCHES[option]
    reference = build(**base).state_dict()
    seen = []
    for options in (base, base | change):
        model = build(**options)
        own = model.state_dict()
        shared = {k: v for k, v in reference.items() if k in own and v.shape == own[k].shape}
        model.load_state_dict(shared, strict=False)
        output = run(model)
        enhanced = output.enhanced.values()
        (output.loss + sum(e.tanh().sum() for e in enhanced)).backward()
        gradient = model.bottlenecks["text"].project[0].weight.grad
        values = {stage: list(getattr(output, stage).values()) for stage in STAGES}
        seen.append(values | {"loss": [output.loss], "gradient": [gradient]})

    def same(what: str) -> bool:
        return all(
            x.shape == y.shape and torch.allclose(x, y, atol=1e-6)
            for x, y in zip(seen[0][what], seen[1][what], strict=True)
        )

    assert not same(part)
    unchanged = {"loss": STAGES, "gradient": (*STAGES, "loss")}
    before = unchanged.get(part) or STAGES[: STAGES.index(part)]
    assert all(same(stage) for stage in before)


def test_without_bottleneck_there_is_no_gate_and_no_loss():
    model = build(bottleneck=False)
    output = run(model)
    assert not any("gate" in name for name in model.state_dict())
    assert output.loss == 0
    assert not any("kept" in key for key in output.diagnostics)
    torch.testing.assert_close(output.filtered, output.embeddings)


def test_without_alignment_z_is_returned_alone_or_repeated():
    alone, repeated = (build(alignment=False, without_alignment=w) for w in ("features", "repeat"))
    output = run(alone)
    assert alone.enhanced_dim == 6
    assert output.plans == {}
    assert not {"transport_cost", "plan_entropy", "iterations"} & set(output.diagnostics)
    torch.testing.assert_close(output.enhanced, output.filtered)
    assert repeated.enhanced_dim == build().enhanced_dim == 18
    for name, z in output.filtered.items():
        torch.testing.assert_close(run(repeated).enhanced[name], torch.cat([z, z, z], -1))


def test_transport_cost_in_the_loss_also_without_labels():
    output = run(build(ot_loss_weight=2.0), labels=None)
    torch.testing.assert_close(output.loss, 2 * output.diagnostics["transport_cost"])
    assert output.loss.requires_grad


# --- Parameters ---


@pytest.mark.parametrize("options", SHAPES, ids=str)
@pytest.mark.parametrize("similarity", ["flat", "row_mean"])
def test_every_parameter_gets_a_gradient(options, similarity):
    model = build(feature_similarity=similarity, **options)
    output = run(model)
    (output.loss + sum(e.tanh().square().sum() for e in output.enhanced.values())).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_parameter_names_fit_mmsa_optimizers():
    """MMSA sorts parameters into groups by these substrings of their names."""
    kinds = ("model", "subnet")
    groups = [f"{m}_{kind}" for m in ("text", "audio", "video") for kind in kinds]
    for options in SHAPES:
        names = [*build(**options).state_dict(), *TokenReadout(3, 2, 1).state_dict()]
        assert not [name for name in names for word in ["bert", "mi", *groups] if word in name]


def test_parameter_count():
    model = build(k=4, d=6)
    want = sum((width + 1) * 6 + (6 + 1) + (6 + 1) * 6 for width in DIMS.values())
    assert sum(p.numel() for p in model.parameters()) == want


def test_plans_start_neither_uniform_nor_certain():
    """The defaults at the paper's scale: lambda = 50 on untrained features of width 128."""
    torch.manual_seed(0)
    dims = {"text": 64, "audio": 33, "vision": 20}
    x = {m: torch.randn(4, 30, width) for m, width in dims.items()}
    output = InfoEnh(dims)(x, {m: torch.ones(4, 30, dtype=torch.bool) for m in dims})
    assert math.log(8) / math.log(64) < output.diagnostics["plan_entropy"] < 0.9
    assert output.diagnostics["iterations"] < 100


# --- Errors ---


def test_every_bad_option_is_named_at_once():
    with pytest.raises(ConfigError) as error:
        InfoEnh({"text": 0, "a.b": 3}, k=0, pol="token_norm", gate="channel")
    message = str(error.value)
    for part in ("5 problem(s)", "'text' has width 0", "'a.b' cannot name", "k: ", "did you mean p",
                 "gate: "):  # fmt: skip
        assert part in message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bottleneck": False, "straight_through": True}, "straight_through needs bottleneck"),
        ({"gates": "random", "sparsity_weight": 0.1}, "sparsity_weight needs .*gates='learned'"),
        ({"bottleneck": False, "gates": "random"}, "gates needs bottleneck=True"),
        ({"without_alignment": "repeat"}, "without_alignment needs alignment=False"),
        ({"alignment": False, "plan": "uniform"}, "plan needs alignment=True"),
        ({"alignment": False, "transport": "source_pushforward"}, "transport needs alignment=True"),
        ({"alignment": False, "cost_axis": "feature"}, "cost_axis needs alignment=True"),
        ({"alignment": False, "ot_loss_weight": 0.1}, "ot_loss_weight needs alignment=True"),
        ({"inverse_temperature": 0}, "inverse_temperature: .*greater than 0"),
        ({"dims": {"text": 3}}, "alignment needs two modalities"),
        ({"dims": {}}, "dims: is empty"),
        ({"dims": {"keys": 3, "text": 3}}, "'keys' cannot name a modality"),
    ],
)
def test_options_that_cannot_act_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_one_modality_without_alignment():
    model = build(dims={"text": 7}, alignment=False)
    sequences, masks = batch()
    output = model({"text": sequences["text"]}, {"text": masks["text"]}, LABELS)
    assert output.enhanced["text"].shape == (5, 4, 6)


def test_from_config_takes_the_fields_of_a_subclass():
    class HostConfig(InfoEnhConfig):
        hidden: int = 3

    model = InfoEnh.from_config(DIMS, HostConfig(k=5, plan="uniform"))
    assert model.config == InfoEnhConfig(k=5, plan="uniform")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequences": {"text": torch.zeros(2, 3, 7)}}, "sequences has the modalities .'text'."),
        ({"masks": {}}, "masks has the modalities"),
        ({"text": torch.zeros(5, 9, 8)}, r"\(5, 9, 8\); expected \(5, L, 7\)"),
        ({"text": torch.zeros(5, 0, 7)}, "with L >= 1"),
        ({"text": torch.zeros(5, 7)}, r"expected \(5, L, 7\)"),
        ({"audio": torch.zeros(4, 12, 5)}, r"expected \(5, L, 5\)"),
        ({"mask": torch.ones(5, 9)}, "expected torch.bool"),
        ({"mask": torch.ones(5, 8).bool()}, r"of shape \(5, 9\)"),
        ({"labels": torch.zeros(4)}, "labels has shape"),
    ],
)
def test_inputs_that_do_not_fit_are_named(change, message):
    sequences, masks = batch()
    sequences |= {m: change[m] for m in DIMS if m in change}
    masks |= {"text": change["mask"]} if "mask" in change else {}
    with pytest.raises(ValueError, match=message):
        build()(
            change.get("sequences", sequences),
            change.get("masks", masks),
            change.get("labels"),
        )


# --- Outside MMSA ---


def test_documented_example_trains(capsys):
    page = (Path(__file__).parents[3] / "docs" / "models" / "infoenh.md").read_text("utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    scope: dict = {}
    torch.manual_seed(0)
    exec(code, scope)
    model, losses = scope["model"], [scope["loss"].item()]
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(20):
        prediction, auxiliary = model(scope["sequences"], scope["masks"], scope["labels"])
        loss = F.mse_loss(prediction, scope["labels"]) + auxiliary
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_documentation_names_every_option():
    page = (Path(__file__).parents[3] / "docs" / "models" / "infoenh.md").read_text("utf-8")
    assert [key for key in InfoEnhConfig.model_fields if f"`{key}" not in page] == []
