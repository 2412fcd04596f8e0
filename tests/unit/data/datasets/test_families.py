"""Each dataset family: what it reads, and that it keeps to what its table declares."""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from kdcli import catalog
from kdcli.core.options import Options
from kdcli.data import arrays
from kdcli.data.augment import Augmentation
from kdcli.data.datasets import cifar, digits, mnist, npz, user
from kdcli.data.source import ImageArrays, channel_statistics
from kdcli.errors import BadData, DiskFull, KdError, NotFound, NotWritable
from tests.unit.data.dataset_layouts import write_cifar10, write_cifar100, write_mnist

NONE = Options()


@pytest.mark.parametrize("entry", catalog.entries("dataset").values(), ids=lambda entry: entry.name)
def test_a_table_says_all_that_kd_datasets_shows(entry: catalog.Entry) -> None:
    shown = {"summary", "classes", "shape", "train", "test", "megabytes", "download", "augment"}
    # where the files of a dataset lie that has to be fetched: a listing looks there without
    # importing torch
    # "val": it may bring a validation part; "pictures": it is of image files; "task": of another
    # task than image classification
    assert set(entry.facts) - {"val", "pictures", "task", "places"} == shown
    assert "places" in entry.facts or not entry.facts["download"]
    Augmentation(**entry.facts["augment"])
    module = catalog.load(entry)
    assert hasattr(module, "download") == entry.facts["download"]
    assert set(module.Options.model_fields) == set(catalog.options_class(entry).model_fields)


class TestDigits:
    def test_it_is_what_the_table_says(self, tmp_path: Path) -> None:
        source, facts = (
            digits.load("digits", options=NONE, root=tmp_path),
            digits.DATASETS["digits"],
        )
        assert list(source.input_shape) == facts["shape"]
        assert (len(source.y_train), len(source.y_test)) == (facts["train"], facts["test"])
        assert source.x_train.min() == 0
        assert source.x_train.max() == 255
        assert source.y_test.bincount().min() >= 34

    def test_the_test_split_never_moves(self, tmp_path: Path) -> None:
        # a change here makes every number that was ever reported on digits incomparable
        source = digits.load("digits", options=NONE, root=tmp_path)
        assert (
            source.fingerprint == "511c0df2ba4e4b47e5501bd82b3dd4c89fe10b336b5575a7a835f5c232e2c836"
        )


class TestMnist:
    @pytest.mark.parametrize(
        ("name", "folder"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
    )
    @pytest.mark.parametrize("packed", [False, True])
    def test_idx_files_packed_or_not(
        self, tmp_path: Path, name: str, folder: str, packed: bool
    ) -> None:
        write_mnist(tmp_path, folder, packed=packed)
        source = mnist.load(name, options=NONE, root=tmp_path)
        assert source.x_train.shape == (20, 1, 28, 28)
        assert source.x_test[7].unique().tolist() == [7]
        assert source.y_train.tolist() == list(range(10)) * 2
        assert len(source.class_names) == 10


class TestCifar:
    def test_cifar10_in_the_original_layout(self, tmp_path: Path) -> None:
        write_cifar10(tmp_path)
        source = cifar.load("cifar10", options=NONE, root=tmp_path)
        assert source.x_train.shape == (50, 3, 32, 32)
        assert source.x_train[49, :, 0, 0].tolist() == [59, 69, 79]
        assert source.class_names[9] == "class 9"
        assert source.superclass is None
        assert source.mean == (0.4914, 0.4822, 0.4465)

    def test_cifar10_as_npz_comes_first(self, tmp_path: Path) -> None:
        write_cifar10(tmp_path)
        original = cifar.load("cifar10", options=NONE, root=tmp_path)
        (tmp_path / "cifar10").mkdir()
        content = {
            "x_train": original.x_train.permute(0, 2, 3, 1).numpy(),
            "y_train": original.y_train.numpy(),
            "x_test": original.x_test.permute(0, 2, 3, 1).numpy(),
            "y_test": original.y_test.numpy(),
            "classes": np.array([f"kind {number}" for number in range(10)]),
        }
        np.savez(tmp_path / "cifar10" / "cifar10.npz", **content)
        source = cifar.load("cifar10", options=NONE, root=tmp_path)
        assert source.class_names[0] == "kind 0"
        assert source.fingerprint == original.fingerprint

    def test_cifar100_derives_its_superclasses(self, tmp_path: Path) -> None:
        write_cifar100(tmp_path)
        source = cifar.load("cifar100", options=NONE, root=tmp_path)
        assert source.superclass is not None
        assert source.superclass.tolist() == [number % 20 for number in range(100)]
        assert source.std == (0.2675, 0.2565, 0.2761)


class TestArrays:
    def arrays(self, *shape: int) -> dict[str, np.ndarray]:
        x = (np.arange(np.prod((4, *shape))) % 251).reshape(4, *shape).astype(np.uint8)
        return {
            "x_train": x,
            "y_train": np.array([0, 1, 2, 1]),
            "x_test": x[:2],
            "y_test": np.array([2, 0]),
        }

    @pytest.mark.parametrize(
        ("shape", "read"),
        [
            ((5, 6), (1, 5, 6)),
            ((5, 6, 3), (3, 5, 6)),
            ((3, 5, 6), (3, 5, 6)),
            ((5, 6, 1), (1, 5, 6)),
        ],
    )
    def test_pictures_in_any_usual_layout(
        self, shape: tuple[int, ...], read: tuple[int, ...]
    ) -> None:
        content = self.arrays(*shape)
        source = arrays.from_arrays(content, origin="it")
        assert source.input_shape == read
        pixel = content["x_train"][1].reshape(-1)[0]
        assert source.x_train[1, 0, 0, 0] == pixel
        assert source.class_names == ("0", "1", "2")

    def test_channels_last_is_transposed_not_reshaped(self) -> None:
        content = self.arrays(5, 6, 3)
        source = arrays.from_arrays(content, origin="it")
        assert np.array_equal(source.x_test.permute(0, 2, 3, 1).numpy(), content["x_test"])

    def test_vectors_may_be_floats(self) -> None:
        x = np.array([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
        source = arrays.from_arrays(
            {"x_train": x, "y_train": [0, 1], "x_test": x, "y_test": [1, 0]}, origin="it"
        )
        assert source.x_train.dtype == torch.float32
        assert source.input_shape == (1, 1, 3)
        assert source.mean == (0.0,)
        assert source.std == (round(float(x.std()), 6),)

    def test_names_superclasses_and_statistics_are_taken_as_given(self) -> None:
        given = {
            "classes": np.array([b"a", b"b", b"c", b"d"]),
            "superclass": [0, 0, 1, 1],
            "mean": [0.5],
            "std": [0.25],
        }
        source = arrays.from_arrays(self.arrays(5, 6) | given, origin="it")
        assert source.class_names == ("a", "b", "c", "d")
        assert source.superclass is not None
        assert source.superclass.tolist() == [0, 0, 1, 1]
        assert (source.mean, source.std) == ((0.5,), (0.25,))

    def test_an_npz_file(self, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "mine.npz", **self.arrays(5, 6, 3))
        source = npz.load(
            "npz", options=npz.Options(path=str(tmp_path / "mine.npz")), root=tmp_path
        )
        assert (
            source.fingerprint == arrays.from_arrays(self.arrays(5, 6, 3), origin="it").fingerprint
        )

    def test_what_a_users_function_may_return(self) -> None:
        content = self.arrays(5, 6)
        source = user.from_user(content)
        assert isinstance(source, ImageArrays)
        assert user.from_user(source) is source
        assert (
            user.from_user(tuple(torch.from_numpy(array) for array in content.values())).fingerprint
            == source.fingerprint
        )


def test_statistics_match_torch_and_a_constant_channel_is_only_shifted() -> None:
    x = torch.arange(2 * 2 * 5 * 5).view(2, 2, 5, 5).to(torch.uint8)
    x[:, 1] = 51
    mean, std = channel_statistics(x)
    scaled = x.double() / 255
    assert mean == pytest.approx((scaled[:, 0].mean().item(), 0.2), abs=1e-6)
    assert std == pytest.approx((scaled[:, 0].std(correction=0).item(), 1.0), abs=1e-6)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which this machine serves it."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "mirror"
    folder.mkdir()
    handler = functools.partial(Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class TestDownload:
    def test_a_set_is_fetched_checked_and_readable(
        self, tmp_path: Path, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder, address = mirror
        write_mnist(folder, packed=True)
        files = sorted((folder / "MNIST" / "raw").iterdir())
        monkeypatch.setattr(
            mnist._SETS["mnist"],
            "resources",
            [(file.name, hashlib.md5(file.read_bytes()).hexdigest()) for file in files],
        )
        monkeypatch.setattr(
            mnist._SETS["mnist"], "mirrors", [f"{address}/nothing/", f"{address}/MNIST/raw/"]
        )
        mnist.download("mnist", root=tmp_path / "data")
        assert mnist.load("mnist", options=NONE, root=tmp_path / "data").y_test.tolist() == list(
            range(10)
        )

    @pytest.fixture
    def archive(self, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
        folder, address = mirror
        monkeypatch.setattr(cifar._SETS["cifar10"], "url", f"{address}/cifar-10-python.tar.gz")
        return folder / "cifar-10-python.tar.gz"

    def test_no_network_is_said_with_what_to_do(self, tmp_path: Path, archive: Path) -> None:
        with pytest.raises(KdError, match=f"{archive.name} could not be fetched from") as caught:
            cifar.download("cifar10", root=tmp_path / "data")
        assert "check the network" in str(caught.value.hint)

    def test_content_with_another_checksum_is_refused(self, tmp_path: Path, archive: Path) -> None:
        archive.write_bytes(b"not what it should be")
        with pytest.raises(KdError, match="corrupted"):
            cifar.download("cifar10", root=tmp_path / "data")

    @pytest.mark.parametrize(("number", "kind"), [(28, DiskFull), (13, NotWritable)])
    def test_a_disk_that_takes_no_more(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[KdError]
    ) -> None:
        def fail(*_: object, **__: object) -> None:
            raise OSError(number, "no")

        monkeypatch.setattr("kdcli.data.fetch.download_and_extract_archive", fail)
        with pytest.raises(kind, match=str(tmp_path)):
            cifar.download("cifar10", root=tmp_path)


@pytest.mark.parametrize(
    ("family", "name"),
    [(mnist, "mnist"), (mnist, "fashion-mnist"), (cifar, "cifar10"), (cifar, "cifar100")],
)
def test_what_is_not_there_is_said_with_the_command_that_fetches_it(
    family: ModuleType, name: str, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match=f"{name} is not under {tmp_path}") as caught:
        family.load(name, options=NONE, root=tmp_path)
    assert caught.value.hint == f"kd datasets {name} --download"


def test_a_function_that_returns_something_else() -> None:
    with pytest.raises(BadData, match="returned int"):
        user.from_user(3)


@pytest.mark.download
@pytest.mark.parametrize(
    ("family", "name"),
    [(mnist, "mnist"), (mnist, "fashion-mnist"), (cifar, "cifar10"), (cifar, "cifar100")],
)
def test_the_real_set_is_what_the_table_says(family: ModuleType, name: str) -> None:
    try:
        source = family.load(
            name,
            options=NONE,
            root=Path(os.environ.get("KD_DATA_DIR", "~/.cache/kdcli/data")).expanduser(),
        )
    except NotFound as error:
        pytest.skip(error.message)
    facts = family.DATASETS[name]
    assert (len(source.y_train), len(source.y_test), len(source.class_names)) == (
        facts["train"],
        facts["test"],
        facts["classes"],
    )
    assert list(source.input_shape) == facts["shape"]
    mean, std = channel_statistics(source.x_train)
    assert source.mean == pytest.approx(mean, abs=1e-4)
    if name != "cifar100":  # whose customary deviations were measured in another way
        assert source.std == pytest.approx(std, abs=1e-4)


def test_image_folders_bound_pictures_as_pictures_do_by_themselves():
    from kdcli.data.datasets.folder import Options
    from kdcli.data.picture import MOST_PIXELS

    assert Options(path=".").max_pixels == MOST_PIXELS
