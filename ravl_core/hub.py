"""Files of published models: from the local cache, else fetched, else refused at once.

A file that is in the cache is taken as it is, without a look at the network. What is missing is fetched only if its
host answers one short call, because the libraries below wait and try again for most of a minute.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub

PATIENCE = 5.0  # seconds in which a host has to answer
CONFIGURATION = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")


def hub_file(repository: str, names: Sequence[str], model: str) -> Path:
    """The first of these files that a repository of the Hugging Face hub has.

    Parameters
    ----------
    repository : "org/name".
    names : of files, the preferred one first.
    model : what the caller asked for, as messages name it.

    Raises
    ------
    ConnectionError
        None is in the cache and the hub cannot be reached, or must not be (HF_HUB_OFFLINE).
    FileNotFoundError
        The repository has none of them.
    """
    for name in names:
        if isinstance(cached := huggingface_hub.try_to_load_from_cache(repository, name), str):
            return Path(cached)
    _require(huggingface_hub.constants.ENDPOINT, model, huggingface_hub.constants.HF_HUB_CACHE)
    for name in names:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name))
        except huggingface_hub.errors.LocalEntryNotFoundError as error:  # it answered, and then no more
            raise ConnectionError(f"{model}: {repository}/{name} could not be fetched: {error}") from error
        except huggingface_hub.errors.EntryNotFoundError:
            continue
    raise FileNotFoundError(f"{model}: {repository} on the hub holds none of {', '.join(names)}")


def tag_file(tag: dict, model: str) -> Path:
    """The weights of one of open_clip's tags, `open_clip.get_pretrained_cfg(name, tag)`. Raises as `hub_file`."""
    if tag.get("hf_hub"):
        repository, name = os.path.split(tag["hf_hub"])
        return hub_file(repository, (f"{Path(name).stem}.safetensors", name) if name else WEIGHTS, model)
    cache = Path("~/.cache/clip").expanduser()  # open_clip's own
    if not (cache / os.path.basename(tag["url"])).is_file():
        _require(tag["url"], model, cache)
    from open_clip.pretrained import download_pretrained_from_url  # after torchvision was made importable

    return Path(download_pretrained_from_url(tag["url"], cache_dir=str(cache)))


def tokenizer_source(repository: str, model: str) -> str:
    """What transformers loads a tokenizer from: its folder in the cache, or the repository if the hub answers.

    Raises
    ------
    ConnectionError
        As `hub_file`.
    """
    cached = huggingface_hub.try_to_load_from_cache(repository, "tokenizer_config.json")
    if isinstance(cached, str):
        return str(Path(cached).parent)
    _require(huggingface_hub.constants.ENDPOINT, model, huggingface_hub.constants.HF_HUB_CACHE)
    return repository


def _require(url: str, model: str, cache: str | Path) -> None:
    """Raise ConnectionError unless the host of `url` answers."""
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    if failure := "HF_HUB_OFFLINE forbids to ask for it" if offline else why_unreachable(url):
        host = url.split("/")[2]
        raise ConnectionError(
            f"{model}: not in the cache {cache}, and not to be had from {host}: {failure}. Load it once where there is "
            "a network and copy that cache (HF_HOME names another place for the hub's), or give a folder that "
            "`save_vlm` wrote (local-dir:path) or a checkpoint file (an open_clip name and pretrained=path)"
        )


def why_unreachable(url: str) -> str | None:
    """Why a host does not answer, or None if it does, whatever it says."""
    outcome = [f"no answer in {PATIENCE:g} s"]

    def call() -> None:
        try:
            huggingface_hub.utils.get_session().head(url, timeout=PATIENCE)
            outcome.append("")
        except Exception as error:  # of whichever library the hub's client uses today
            outcome.append(str(error) or type(error).__name__)

    thread = threading.Thread(target=call, daemon=True)  # looking a name up has no timeout of its own
    thread.start()
    thread.join(PATIENCE)
    return outcome[-1] or None
