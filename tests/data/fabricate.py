"""Small data sets on disk, made by the tests: prepared TFDS folders, tfrecord files, archives of CIFAR's layout."""

import io
import json
import struct
import tarfile

import numpy as np
from PIL import Image


def pixels(count, seed=0, side=32, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels)).astype(np.uint8)


def prepare_tfds(root, splits, name="tiny", classes=("a", "b", "c"), shape=(8, 8, 3), extra=(), supervised=True):
    """`<root>/<name>/1.0.0/` in array_record; splits: name -> (images, labels). Returns the folder."""
    import tensorflow_datasets as tfds

    def info(self):
        features = {"photo": tfds.features.Image(shape=shape), "kind": tfds.features.ClassLabel(names=list(classes))}
        features |= {key: tfds.features.ClassLabel(num_classes=2) for key in extra}
        keys = ("photo", "kind") if supervised else None
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=keys,
            description="made by a test",
        )

    def examples(images, labels):
        for i, (image, label) in enumerate(zip(images, labels)):
            array = image[..., 0] if image.shape[-1] == 1 else image
            yield i, {"photo": Image.fromarray(array), "kind": int(label)} | dict.fromkeys(extra, 0)

    body = {
        "name": name,
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": lambda self, _: {k: examples(*v) for k, v in splits.items()},
        "_generate_examples": lambda self: None,
    }
    with tfds.core.registered.skip_registration():
        builder = type("Tiny", (tfds.core.GeneratorBasedBuilder,), body)(data_dir=root, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    return builder.data_path


def to_tfrecord(folder):
    """Rewrites a prepared array_record folder as the tfrecord folder a TensorFlow user has."""
    from array_record.python import array_record_data_source

    for path in list(folder.glob("*.array_record*")):
        with array_record_data_source.ArrayRecordDataSource(str(path)) as source:
            records = [source[i] for i in range(len(source))]
        with (folder / path.name.replace("array_record", "tfrecord")).open("wb") as out:
            for record in records:
                out.write(struct.pack("<Q", len(record)) + b"crc1" + record + b"crc2")
        path.unlink()
    info = folder / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))


def cifar_archive(path, name="cifar10", extra_member=None, drop=None):
    """A tar.gz of the genuine layout with a few random images. Returns {split: (images, labels)}."""
    many = name == "cifar100"
    per_file = 100 if many else 4  # every class occurs
    folder = "cifar-100-binary" if many else "cifar-10-batches-bin"
    train = ["train.bin"] if many else [f"data_batch_{i}.bin" for i in range(1, 6)]
    files, out = {}, {"train": ([], []), "test": ([], [])}
    for i, file in enumerate([*train, "test.bin" if many else "test_batch.bin"]):
        images = pixels(per_file, seed=i)
        labels = (i * per_file + np.random.default_rng(i).permutation(per_file)) % (100 if many else 10)
        rows = [
            (b"\x03" if many else b"") + bytes([label]) + image.transpose(2, 0, 1).tobytes()
            for image, label in zip(images, labels)
        ]
        files[file] = b"".join(rows)
        split = out["train" if file in train else "test"]
        split[0].extend(images)
        split[1].extend(labels.tolist())
    if many:
        files["coarse_label_names.txt"] = "\n".join(f"coarse{k}" for k in range(20)).encode() + b"\n"
        files["fine_label_names.txt"] = "\n".join(f"fine{k}" for k in range(100)).encode() + b"\n"
    else:
        files["batches.meta.txt"] = "\n".join(f"class{k}" for k in range(10)).encode() + b"\n\n"
    with tarfile.open(path, "w:gz") as archive:
        for file, data in files.items():
            if file != drop:
                _add(archive, f"{folder}/{file}", data)
        if extra_member is not None:
            extra_member(archive, _add)
    return {split: (np.stack(images), np.array(labels)) for split, (images, labels) in out.items()}


def _add(archive, name, data):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
