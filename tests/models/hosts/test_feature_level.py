"""InfoEnh in front of MMSA's feature-level models: what they are handed, and who trains what."""

import pickle

import pytest
import torch

from MMSA_ext import catalogue, mmsa_bridge, mmsa_files
from MMSA_ext.config.resolve import resolve
from MMSA_ext.errors import ConfigError
from MMSA_ext.models.hosts import feature_level
from MMSA_ext.registry import get_model, list_models
from tests.conftest import TINY_SHAPES, make_feature_data

HOSTS = sorted(feature_level.HOSTS)
VECTOR_HOSTS = ["lf_dnn", "lmf", "tfn"]
STEP_HOSTS = ["ef_lstm", "mfn"]
K, D = 5, 6
DECIDED = ("need_normalized", "need_model_aligned")
# MMSA leaves these as they are drawn: LMF's trainer passes over them, TFN's are constants.
NOT_TRAINED = {"lmf": ["fusion_weights", "fusion_bias"], "tfn": ["output_range", "output_shift"]}


def tiny_args(host, dataset="mosi", path="x", variant=True, **infoenh):
    """Arguments of a tiny variant, or of the host itself."""
    config = {"featurePath": str(path), "batch_size": 4, "early_stop": 0, **TINY_SHAPES}
    if host == "mult":
        config |= {"update_epochs": 1, "dst_feature_dim_nheads": [6, 2], "nlevels": 1}
    if host == "lmf":
        config["factor_lr"] = 2e-3
    if host == "tfn":
        config |= {"hidden_dims": [4, 4, 4], "text_out": 4}
    if variant:
        config["infoenh"] = {"k": K, "d": D} | infoenh
    args = resolve(f"{host}_infoenh" if variant else host, dataset, "", config)
    return mmsa_bridge.complete_args(
        args, device=torch.device("cpu"), model_save_path=f"{path}.weights"
    )


def tiny_model(host, dataset="mosi", **infoenh):
    """A tiny variant, without MMSA's wrapper around it."""
    mmsa_bridge.setup_seed(0)
    return mmsa_bridge.build_model(tiny_args(host, dataset, **infoenh)).Model


@pytest.fixture
def batch():
    """Six ragged samples: text, audio and vision; the last one has no audio at all."""
    split = make_feature_data()["train"]
    text, audio, vision = (torch.tensor(split[m][:6]) for m in ("text", "audio", "vision"))
    audio[-1] = 0
    return text, audio, vision


@pytest.fixture
def feature_path(tmp_path):
    path = tmp_path / "features.pkl"
    path.write_bytes(pickle.dumps(make_feature_data()))
    return path


@pytest.fixture(params=HOSTS)
def host(request):
    return request.param


@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_the_shipped_configuration_builds_and_predicts(host, dataset):
    args = resolve(f"{host}_infoenh", dataset)
    mmsa_bridge.setup_seed(0)
    model = mmsa_bridge.build_model(
        mmsa_bridge.complete_args(args, device=torch.device("cpu"), model_save_path="x")
    ).eval()
    sequences = [torch.randn(3, 12, width) for width in args.feature_dims]
    prediction = model(*sequences)["M"]
    assert prediction.shape == (3, 1)
    assert torch.isfinite(prediction).all()


def test_valid_frames_are_those_with_anything_in_them():
    frames = torch.tensor([[[0.0, -1.0], [0.0, 0.0], [2.0, 0.0]], [[0.0, 0.0]] * 3])
    assert feature_level.valid_frames(frames).tolist() == [[True, False, True], [False] * 3]


class TestTrainers:
    """MMSA's own trainers."""

    @pytest.fixture
    def optimizers(self, monkeypatch):
        made = []

        class Recorded(torch.optim.Adam):
            def __init__(self, *args, **options):
                super().__init__(*args, **options)
                made.append(self)

        monkeypatch.setattr(torch.optim, "Adam", Recorded)
        return made

    def test_every_parameter_is_in_one_group_with_the_hosts_rate(
        self, host, feature_path, optimizers
    ):
        args = tiny_args(host, path=feature_path)
        run = mmsa_bridge.train_and_test(args, seed=0, splits=("test",))
        model = run.model.Model
        (optimizer,) = optimizers
        rates = {}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                rates.setdefault(parameter, []).append(group["lr"])
        missing = [n for n, p in model.named_parameters() if p not in rates]
        assert missing == NOT_TRAINED.get(host, [])
        factors = [f"{m}_factor" for m in ("audio", "video", "text")] if host == "lmf" else []
        for name, parameter in model.named_parameters():
            if name not in missing:
                rate = args.factor_lr if name in factors else args.learning_rate
                assert rates[parameter] == [rate], name

    def test_the_hosts_own_parameters_come_first(self, host):
        names = [name for name, _ in tiny_model(host).named_parameters()]
        added = [name.startswith("infoenh") for name in names]
        assert added == sorted(added)
        own = [
            n for n, _ in mmsa_bridge.build_model(tiny_args(host, variant=False)).named_parameters()
        ]
        assert names[: len(own)] == [name.removeprefix("Model.") for name in own]


class TestHandedOver:
    """What each kind of host is told of its input."""

    def test_infoenh_gets_sequences(self, host):
        args = resolve(f"{host}_infoenh", "mosi")
        assert not any(args[key] for key in DECIDED)
        assert args.need_data_aligned == resolve(host, "mosi").need_data_aligned

    def test_mult_reads_k_enhanced_rows(self):
        assert tiny_model("mult").proj_a.in_channels == 3 * D
        assert tiny_model("mult", alignment=False).proj_a.in_channels == D

    @pytest.mark.parametrize("host", STEP_HOSTS)
    def test_hosts_in_step_take_k_steps_without_mmsas_alignment(self, host):
        model = mmsa_bridge.build_model(tiny_args(host))
        assert not hasattr(model, "alignNet")
        width = model.Model.lstm.input_size if host == "ef_lstm" else model.Model.lstm_a.input_size
        assert width == (9 * D if host == "ef_lstm" else 3 * D)
        if host == "ef_lstm":
            assert model.Model.norm.num_features == K

    @pytest.mark.parametrize("host", VECTOR_HOSTS)
    def test_vectors_have_the_width_of_a_frame_or_the_readouts(self, host):
        kept, widened = tiny_model(host), tiny_model(host, vector="widen", hidden=7)
        _, audio, vision = TINY_SHAPES["feature_dims"]
        assert kept.audio_subnet.linear_1.in_features == audio
        assert kept.video_subnet.linear_1.in_features == vision
        assert widened.audio_subnet.linear_1.in_features == 7
        assert kept.text_subnet.rnn.input_size == 3 * D

    @pytest.mark.parametrize("host", VECTOR_HOSTS)
    def test_the_residual_is_mmsas_average(self, host, batch):
        model, plain = tiny_model(host, residual=True).eval(), tiny_model(host).eval()
        read = {}
        for name, of in (("with", model), ("without", plain)):
            of.audio_subnet.register_forward_pre_hook(
                lambda module, inputs, name=name: read.__setitem__(name, inputs[0])
            )
            of(*batch)
        average = batch[1].mean(dim=1)
        torch.testing.assert_close(read["with"] - read["without"], average, atol=1e-6, rtol=1e-5)


def token_ids(host):
    """Overrides for which MMSA's loader hands over token ids; mult would load an encoder, too."""
    return {"use_bert": True} | ({"use_finetune": True} if host == "mult" else {})


class TestRefusals:
    def test_every_model_of_mmsa_is_supported_or_refused(self):
        by_name = {"misa", "self_mm", "mmim"}  # hosts with a file of their own
        groups = [set(feature_level.HOSTS), set(catalogue.NO_HOSTS), by_name]
        assert sum(map(len, groups)) == len(set().union(*groups))
        assert set().union(*groups) == set(mmsa_files.models())
        for name in feature_level.HOSTS:
            assert get_model(f"{name}_infoenh").host == name
        assert not {f"{name}_infoenh" for name in catalogue.NO_HOSTS} & set(list_models())

    @pytest.mark.parametrize("name", sorted(catalogue.NO_HOSTS))
    def test_the_reason_is_told(self, name):
        with pytest.raises(ConfigError) as error:
            resolve(f"{name}_infoenh", "mosi")
        assert catalogue.NO_HOSTS[name] in str(error.value)
        assert "mult" in str(error.value)

    def test_graph_mfn_neither_trains_nor_saves_its_networks(self):
        """The reason for which it is refused."""
        args = mmsa_bridge.complete_args(
            resolve("graph_mfn", "mosi"), device=torch.device("cpu"), model_save_path="x"
        )
        model = mmsa_bridge.build_model(args)
        hidden = [p for net in model.Model.graph_mfn.networks.values() for p in net.parameters()]
        known = {id(p) for p in model.parameters()}
        assert hidden
        assert not any(id(parameter) in known for parameter in hidden)

    def test_kernels_longer_than_the_rows(self):
        with pytest.raises(ConfigError, match=r"conv1d_kernel_size_l=5 .*raise infoenh\.k to 5"):
            resolve("mult_infoenh", "mosi", "", {"infoenh.k": 4})
        assert resolve("mult_infoenh", "mosi", "", {"infoenh.k": 5}).infoenh.k == 5

    def test_no_kernel_is_used_where_the_width_is_the_models(self, batch):
        assert torch.isfinite(tiny_model("mult", k=4, d=2).eval()(*batch)["M"]).all()

    def test_the_width_that_kernels_are_checked_for_is_the_models(self, batch):
        """Without alignment a row is as wide as the model; repeated, it is three times that."""
        alone = {"k": 4, "d": 6, "alignment": False}
        assert torch.isfinite(tiny_model("mult", **alone).eval()(*batch)["M"]).all()
        with pytest.raises(ConfigError, match="conv1d_kernel_size_l=5"):
            tiny_args("mult", without_alignment="repeat", **alone)

    def test_token_ids(self, host):
        with pytest.raises(ConfigError, match="set use_bert to false"):
            resolve(f"{host}_infoenh", "mosi", "", token_ids(host))

    def test_without_infoenh_nothing_is_refused(self, host):
        off = {"infoenh": None} | token_ids(host)
        assert resolve(f"{host}_infoenh", "mosi", "", off).use_bert

    def test_mmsas_own_function_does_not_check_so_building_does(self, host):
        args = tiny_args(host)
        args.need_normalized = True
        with pytest.raises(ConfigError, match="set need_normalized to false"):
            mmsa_bridge.build_model(args)
