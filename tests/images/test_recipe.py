"""What the Dockerfiles are made of: pinned, complete, and free of this machine. Pure."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from srcip_e2e.images import machine
from srcip_e2e.images.recipe import NAMES, ROOT, Recipe, base_key, project_version, reference

NO_ASYNC_CLIENT = {"aiohappyeyeballs", "aiohttp", "aiohttp-retry", "aiosignal", "attrs", "frozenlist", "multidict"}
NO_ASYNC_CLIENT |= {"propcache", "yarl"}
"""What only the asynchronous Kubernetes client imports, which the Dockerfiles of certs and the agent remove."""
LEFT_OUT = {"webhook": set(), "certs": NO_ASYNC_CLIENT, "agent": NO_ASYNC_CLIENT | {"cryptography"}}


def locked(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Each requirement of a lock: its version with its marker, and its hashes."""
    found = {}
    for block in re.split(r"\n(?=\S)", path.read_text()):
        if match := re.match(r"([a-z0-9.-]+)==([^\\\n]+)", block):
            found[match[1]] = (match[2].strip(), frozenset(re.findall(r"--hash=(sha256:[0-9a-f]{64})", block)))
    return found


def declared(extra: str) -> set[str]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {Requirement(line).name for line in project["optional-dependencies"][extra]}


@pytest.mark.parametrize("name", ["webhook", "certs", "agent"])
def test_an_image_installs_the_versions_that_the_tests_ran_with(name: str) -> None:
    """Versions and hashes are those of requirements.lock, and what pyproject.toml declares is among them."""
    whole, part = locked(ROOT / "requirements.lock"), locked(ROOT / name / "requirements.lock")
    assert part
    assert {key: whole.get(key) for key in part} == part
    assert all(hashes for _, hashes in part.values())
    assert declared(name) <= set(part)
    assert not LEFT_OUT[name] & set(part)


@pytest.mark.parametrize("name", NAMES)
def test_a_dockerfile_names_no_registry_and_no_architecture(name: str) -> None:
    text = Recipe(name).dockerfile.read_text()
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "scratch"]
    assert re.findall(r"^ARG BASE=(.*)", text, re.MULTILINE) == ["debian:trixie-slim"]
    assert not re.search(r"amd64|arm64|x86|aarch64|--platform|https?://", text)


def test_the_proxys_haproxy_is_pinned_to_its_long_term_version() -> None:
    assert "ARG HAPROXY=3.0.*\n" in Recipe("proxy").dockerfile.read_text()
    assert "haproxy" in (ROOT / "proxy/packages.txt").read_text().splitlines()


@pytest.mark.parametrize("name", NAMES)
def test_the_context_holds_all_that_is_copied(name: str) -> None:
    """What .dockerignore does not let through, no engine finds."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in Recipe(name).sources():
        assert (ROOT / source).exists(), source
        assert any(Path(source).is_relative_to(entry) for entry in allowed), source


def test_the_webhooks_image_has_each_module_of_the_data_plane_that_it_imports() -> None:
    """Neither one less, or it does not start, nor one more."""
    program = (
        "import sys, srcip_webhook.server; print(*(name for name in sys.modules if name.startswith('srcip_proxy.')))"
    )
    imported = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    copied = (path.relative_to(ROOT / "proxy") for path in Recipe("webhook").files() if "srcip_proxy" in path.parts)
    modules = {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in copied}
    assert modules - {"srcip_proxy"} == set(imported)


def test_every_file_that_is_copied_decides_the_key(tmp_path: Path) -> None:
    (tmp_path / "proxy/code").mkdir(parents=True)
    (tmp_path / ".dockerignore").write_text("")
    (tmp_path / "proxy/Dockerfile").write_text(
        "FROM scratch AS build\nCOPY proxy/code \\\n  /x/\nCOPY --from=build /x /\n"
    )
    recipe = Recipe("proxy", tmp_path)
    keys = [recipe.key("one"), recipe.key("two")]
    for path in ("proxy/code/a", "proxy/code/b", "proxy/Dockerfile", ".dockerignore"):
        with (tmp_path / path).open("a") as file:
            file.write("# more\n")
        keys.append(recipe.key("one"))
    assert len(set(keys)) == len(keys)
    (tmp_path / "proxy/other").write_text("is not copied")
    (tmp_path / "proxy/code/__pycache__").mkdir()
    (tmp_path / "proxy/code/__pycache__/a.pyc").write_text("neither")
    assert recipe.key("one") == keys[-1]
    assert base_key("a") != base_key("b")


def test_a_copy_that_the_builder_does_not_understand_is_refused(tmp_path: Path) -> None:
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy/Dockerfile").write_text("COPY --chmod=755 a b\n")
    with pytest.raises(ValueError, match="--from"):
        Recipe("proxy", tmp_path).sources()


def test_the_images_are_tagged_with_the_projects_version() -> None:
    assert reference("proxy") == f"srcip/proxy:{project_version()}"


def test_of_the_machines_settings_only_those_of_downloads_reach_a_build() -> None:
    """The environment's come before the files', as in pip; paths that are there are mounted elsewhere."""
    listing = (
        "global.index-url='https://one.example/simple'\nglobal.user='true'\nglobal.cert='/etc/hosts'\n"
        ":env:.index-url='https://two.example/simple'\ninstall.extra-index-url='\\nhttps://a.example\\nhttps://b.example'\n"
    )
    options = machine.pip_options(listing)
    assert options == {
        "index-url": "https://two.example/simple",
        "cert": "/etc/hosts",
        "extra-index-url": "\nhttps://a.example\nhttps://b.example",
    }
    assert machine.pip_text(options).splitlines() == [
        "[global]",
        "cert = /etc/hosts",
        "extra-index-url = https://a.example",
        "  https://b.example",
        "index-url = https://two.example/simple",
    ]
    dump = 'APT::Architecture "x";\nAcquire::http::Proxy "http://cache.example:3142";\nAcquire::IndexTargets::x "1";\n'
    assert machine.apt_text(dump) == 'Acquire::http::Proxy "http://cache.example:3142";\n'


def test_files_that_the_settings_name_are_mounted_under_one_folder(tmp_path: Path) -> None:
    texts = {
        "/etc/pip.conf": "cert = /etc/hosts\nproxy = http://x.example/etc/hosts\nfind-links = file:///etc /no/such\n"
    }
    settings = machine.moved(texts)
    assert settings.mounts == {"/etc/hosts": "/machine/etc/hosts", "/etc": "/machine/etc"}
    assert settings.texts["/etc/pip.conf"] == (
        "cert = /machine/etc/hosts\nproxy = http://x.example/etc/hosts\nfind-links = file:///machine/etc /no/such\n"
    )
    volumes = settings.volumes(tmp_path)
    assert f"--volume={tmp_path}/pip.conf:/etc/pip.conf:ro" in volumes
    assert (tmp_path / "pip.conf").read_text() == settings.texts["/etc/pip.conf"]
