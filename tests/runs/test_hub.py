"""Models go to a hub and come back as they were, or one sentence says why not."""

import pytest
from huggingface_hub import constants, utils

from MMSA_ext import Scorer, pull, push, save_pretrained
from MMSA_ext.errors import CheckpointError, ConfigError, HubError
from MMSA_ext.training import model_folder
from MMSA_ext.training.checkpoint import save_checkpoint
from tests.conftest import write_tiny_encoder
from tests.fake_hub import hub, no_hub
from tests.models.untrained import untrained_checkpoint

NAME = "group/text-model"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint, and its folder, both from the time when there was its text encoder."""
    base = tmp_path_factory.mktemp("made")
    (base / "encoder").mkdir()
    checkpoint, _ = untrained_checkpoint("text_only", base, write_tiny_encoder(base / "encoder"))
    save_checkpoint(base / "c.pth", checkpoint)
    return save_pretrained(base / "c.pth", base / "model", results=base)


@pytest.fixture
def online(monkeypatch, tmp_path):
    """Switch to a hub, an empty cache and a token."""

    def switch(address, token="hf_right"):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)
        utils.disable_progress_bars()

    return switch


def same(first, second):
    assert model_folder.files(first) == model_folder.files(second)
    for name in model_folder.files(first):
        if name != "README.md":
            assert (first / name).read_bytes() == (second / name).read_bytes()
    return True


def test_there_and_back(made, online, tmp_path):
    with hub() as served:
        online(served.address)
        (made / "thesis.tex").write_text("mine")
        address = push(made, NAME)
        (made / "thesis.tex").unlink()
        assert address == f"{served.address}/{NAME}"
        assert set(served.files[NAME]) == {*model_folder.files(made), ".gitattributes"}
        assert not served.private
        assert len(served.stored) == 1  # the weights, as a large file
        (served.files[NAME])["train.py"] = b"print('executed')"
        got = pull(NAME, tmp_path / "got")
        assert same(got, made)
        assert "train.py" not in served.fetched
        assert f'from_pretrained("{NAME}")' in (got / "README.md").read_text()
        assert "OWNER/NAME" not in (got / "README.md").read_text()
        with pytest.raises(ConfigError, match="holds a model already"):
            pull(NAME, tmp_path / "got")


def test_a_scorer_by_its_name_without_a_network_the_second_time(made, online, monkeypatch):
    texts = {"raw_text": ["word1 word7"]}
    want = Scorer(made, gpu_ids="cpu")(texts)["prediction"]
    with hub() as served:
        served.add(NAME, made)
        online(served.address)
        assert Scorer.from_pretrained(f"hf://{NAME}", gpu_ids="cpu")(texts)["prediction"] == want
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Scorer.from_pretrained(NAME, gpu_ids="cpu")(texts)["prediction"] == want
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, and the local cache does not hold"):
        Scorer.from_pretrained("group/another")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set, so nothing is uploaded"):
        push(made, NAME)
    with pytest.raises(ConfigError, match="no revision of it"):
        Scorer.from_pretrained(made, revision="v1")


def test_a_checkpoint_is_pushed_as_its_folder(made, online):
    with hub() as served:
        online(served.address)
        push(made.parent / "c.pth", NAME, private=True, results=made.parent, license="cc-by-4.0")
        assert set(served.files[NAME]) == {*model_folder.files(made), ".gitattributes"}
        assert b"license: cc-by-4.0" in served.files[NAME]["README.md"]
        assert served.private == {NAME}
        with pytest.raises(ConfigError, match="is a finished folder"):
            push(made, NAME, license="mit")


def test_what_an_earlier_model_left_is_taken_away(made, online, tmp_path):
    with hub() as served:
        online(served.address)
        served.files[NAME] = {"text_encoder/added_tokens.json": b"{}", "notes.md": b"mine"}
        push(made, NAME)
        assert "text_encoder/added_tokens.json" not in served.files[NAME]
        assert served.files[NAME]["notes.md"] == b"mine"
        assert same(pull(NAME, tmp_path / "got"), made)


def test_nothing_private_goes_to_a_public_repository(made, online):
    with hub() as served:
        online(served.address)
        served.files[NAME] = {}
        with pytest.raises(HubError, match="is there already, and public; make it private"):
            push(made, NAME, private=True)
        assert served.files[NAME] == {}


@pytest.mark.parametrize(("token", "said"), [("", "no token, without"), ("hf_wrong", "refuses")])
def test_without_a_token_that_may(made, online, token, said):
    with hub() as served:
        online(served.address, token)
        with pytest.raises(HubError, match=f"{NAME}: .*{said}.*hf auth login.*HF_TOKEN"):
            push(made, NAME)
        assert served.files == {}


@pytest.mark.parametrize("name", ["model", "a/b/c", "a b/c", "", "-/--", "a/b.git", "../x"])
@pytest.mark.parametrize("action", [lambda n, m: push(m, n), lambda n, _: pull(n, "x")])
def test_a_name_that_is_none(made, online, name, action):
    online("http://127.0.0.1:9")
    with pytest.raises(
        ConfigError, match="no repository of the Hugging Face Hub; write owner/name"
    ):
        action(name, made)


class TestPulling:
    @pytest.mark.parametrize(
        ("said", "change", "revision"),
        [
            ("has no such model, or it is private", lambda s: s.files.clear(), None),
            ("is gated; ask for access on", lambda s: s.gated.add(NAME), None),
            ("has no revision 'v2'", lambda s: None, "v2"),
        ],
    )
    def test_what_the_hub_refuses(self, made, online, tmp_path, said, change, revision):
        with hub() as served:
            served.add(NAME, made)
            change(served)
            online(served.address)
            with pytest.raises(HubError, match=f"{NAME}: .*{said}") as error:
                pull(NAME, tmp_path / "got", revision=revision)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "got").exists()

    def test_without_a_network(self, online, tmp_path):
        with no_hub("closed") as address:
            online(address)
            with pytest.raises(HubError, match="cannot be reached"):
                pull(NAME, tmp_path / "got")

    def test_an_encoder_is_not_downloaded(self, tiny_encoder, online, tmp_path):
        with hub() as served:
            served.add(NAME, tiny_encoder)
            online(served.address)
            with pytest.raises(CheckpointError, match="holds a text encoder of transformers"):
                pull(NAME, tmp_path / "got")
            assert served.fetched == ["config.json"]

    def test_a_repository_without_a_configuration(self, online, tmp_path):
        with hub() as served:
            served.files[NAME] = {"model.bin": b"x"}
            online(served.address)
            with pytest.raises(
                CheckpointError, match=r"has no config\.json, so it is no model of MMSA_ext"
            ):
                pull(NAME, tmp_path / "got")
            assert served.fetched == []

    @pytest.mark.parametrize("name", ["model.safetensors", "text_encoder/vocab.txt"])
    def test_a_damaged_one_is_not_left_in_the_folder(self, made, online, tmp_path, name):
        with hub() as served:
            served.add(NAME, made)
            content = served.files[NAME][name]
            served.files[NAME][name] = content[:-1] + b"\x07"
            online(served.address)
            with pytest.raises(CheckpointError, match=f"{name}: is damaged.*the copy in the cache"):
                pull(NAME, tmp_path / "got")
        assert not (tmp_path / "got").exists()


def test_on_the_command_line(made, online, monkeypatch, typed, tmp_path):
    monkeypatch.chdir(tmp_path)
    with hub() as served:
        online(served.address)
        for command, wanted in (
            (f"push {made} {NAME} --private", f"uploaded: {served.address}/{NAME}"),
            (f"pull {NAME}", "written: text-model"),
            (f"pull {NAME} -o other --revision main", "written: other"),
        ):
            ended, said = typed(f"mmsa-ext {command}")
            assert ended == 0
            assert wanted in said
    assert same(tmp_path / "text-model", made)
    assert same(tmp_path / "other", made)


def test_a_damaged_folder_is_not_uploaded(made, online, tmp_path):
    folder = tmp_path / "copy"
    model_folder.copy(made, folder)
    (folder / "text_encoder" / "vocab.txt").write_text("x")
    with hub() as served:
        online(served.address)
        with pytest.raises(CheckpointError, match="is damaged"):
            push(folder, NAME)
        assert served.requests == []
