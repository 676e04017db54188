import hashlib
import io
import tarfile
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from deq_nc.config import DataConfig
from deq_nc.data import DataError, load
from deq_nc.data import archive as archive_module
from deq_nc.data.archive import Checksum, read_archive, verify
from deq_nc.data.prepare import prepare

from .fabricate import cifar_archive


def checksum(path):
    return Checksum(path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_of_the_genuine_layout_comes_back_pixel_for_pixel(tmp_path, name):
    path = tmp_path / "download.tar.gz"
    truth = cifar_archive(path, name)
    folder = prepare(name, str(tmp_path / "data"), archive=str(path), checksum=checksum(path))
    assert folder.parent == tmp_path / "data" / name and (folder / "dataset_info.json").is_file()
    data = load(DataConfig(name=name, dir=str(tmp_path / "data")))
    assert data.name == name and not data.notes  # PNG, so nothing is said of JPEG
    assert data.class_names[7] == ("fine7" if name == "cifar100" else "class7")
    for split, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("test", data.test_images, data.test_labels),
    ):
        ours = {(image.tobytes(), int(label)) for image, label in zip(images, labels)}
        assert ours == {(image.tobytes(), int(label)) for image, label in zip(*truth[split])}
        assert len(images) == len(truth[split][0])
    before = time.perf_counter()
    assert prepare(name, str(tmp_path / "data")) == folder  # prepared already: no archive, no network
    assert time.perf_counter() - before < 1


def test_the_archive_is_found_where_the_message_says_to_copy_it(tmp_path):
    (tmp_path / "downloads").mkdir()
    path = tmp_path / "downloads" / "cifar-10-binary.tar.gz"
    cifar_archive(path)
    assert prepare("cifar10", str(tmp_path), checksum=checksum(path)).is_dir()


def test_a_wrong_checksum_is_refused_before_anything_is_read(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    cifar_archive(path)
    with pytest.raises(DataError, match="170,052,171 bytes and sha256 c4a38c50"):  # TFDS's own, looked up
        prepare("cifar10", str(tmp_path / "data"), archive=str(path))
    with pytest.raises(DataError, match="not the published archive"):
        verify(path, Checksum(path.stat().st_size, "0" * 64))
    assert not list((tmp_path / "data").rglob("*.json"))


@pytest.mark.parametrize("name", ["../evil.bin", "/etc/evil.bin", "cifar-10-batches-bin/../../evil.bin"])
def test_paths_leading_outside_are_refused(tmp_path, name):
    path = tmp_path / "a.tar.gz"
    cifar_archive(path, extra_member=lambda archive, add: add(archive, name, b"x"))
    with pytest.raises(DataError, match="link or leads outside"):
        prepare("cifar10", str(tmp_path / "data"), archive=str(path), checksum=checksum(path))
    assert not (tmp_path / "evil.bin").exists()


def test_links_damage_and_missing_members_are_refused(tmp_path):
    def link(archive, add):
        member = tarfile.TarInfo("cifar-10-batches-bin/link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)

    path = tmp_path / "a.tar.gz"
    cifar_archive(path, extra_member=link)
    with pytest.raises(DataError, match="link or leads outside"):
        read_archive(path, "cifar-10-batches-bin/", ["test_batch.bin"])
    cifar_archive(path, drop="test_batch.bin")
    with pytest.raises(DataError, match="lacks cifar-10-batches-bin/test_batch.bin"):
        prepare("cifar10", str(tmp_path / "data"), archive=str(path), checksum=checksum(path))
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(DataError, match="not a readable tar archive"):
        read_archive(path, "cifar-10-batches-bin/", ["test_batch.bin"])
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="not a readable tar archive"):
        read_archive(path, "cifar-10-batches-bin/", ["test_batch.bin"])


def _refuse(url, timeout):
    raise urllib.error.URLError("no route")


def _hang(url, timeout):
    time.sleep(5)


@pytest.mark.parametrize("urlopen, reason", [(_refuse, "no route"), (_hang, "no answer")])
def test_without_internet_the_message_says_what_to_copy_where(tmp_path, monkeypatch, urlopen, reason):
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(archive_module, "NETWORK_SECONDS", 0.2)
    with pytest.raises(DataError, match=reason) as caught:
        prepare("cifar100", str(tmp_path))
    message = str(caught.value)
    assert "https://" in message and "cifar-100-binary.tar.gz" in message
    assert "168,513,733 bytes, sha256 58a81ae192c2" in message
    assert str(tmp_path / "downloads" / "cifar-100-binary.tar.gz") in message
    assert f"deq-nc data prepare cifar100 --data-dir {tmp_path}" in message


@pytest.mark.parametrize("tamper", [False, True])
def test_a_download_is_verified_before_it_is_kept(tmp_path, monkeypatch, tamper):
    path = tmp_path / "served.tar.gz"
    truth = cifar_archive(path)
    expected = checksum(path)
    if tamper:
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: path.open("rb"))
    root = tmp_path / "data"
    if tamper:
        with pytest.raises(DataError, match="not the published archive"):
            prepare("cifar10", str(root), checksum=expected)
        assert not list((root / "downloads").iterdir())
    else:
        prepare("cifar10", str(root), checksum=expected)
        assert len(load(DataConfig(name="cifar10", dir=str(root))).train_images) == len(truth["train"][0])


def test_other_names_need_tensorflow_or_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"deq-nc\[tf\]"):
        prepare("mnist", str(tmp_path))
    with pytest.raises(DataError, match="needs no preparation"):
        prepare("digits", str(tmp_path))
    with pytest.raises(DataError, match="--archive"):
        prepare("mnist", str(tmp_path), archive="x")
    with pytest.raises(DataError, match="there is no file"):
        prepare("cifar10", str(tmp_path), archive=str(tmp_path / "absent"))


def test_a_read_only_folder_is_refused_at_once(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(DataError, match="cannot be written"):
            prepare("cifar10", str(tmp_path / "new"))
    finally:
        tmp_path.chmod(0o755)


def test_the_fabricated_layout_is_the_one_tfds_reads(tmp_path):
    """TFDS's own reader, given the same bytes, yields the same images: the layout is not ours alone."""
    from tensorflow_datasets.image_classification import cifar

    path = tmp_path / "a.tar.gz"
    truth = cifar_archive(path)
    data = read_archive(path, "cifar-10-batches-bin/", ["test_batch.bin"])["test_batch.bin"]

    def GFile(*_):
        return io.BytesIO(data)

    class Fake:
        class io:
            class gfile:
                pass

    Fake.io.gfile.GFile = GFile
    original, cifar.tf = cifar.tf, Fake
    try:
        theirs = list(cifar._load_data("x"))
    finally:
        cifar.tf = original
    assert np.array_equal(np.stack([image for _, image in theirs]), truth["test"][0])
    assert [int(label[0]) for label, _ in theirs] == truth["test"][1].tolist()
