"""combine.py --ray: the same codes as without, every row once, whatever is killed or started again."""

import contextlib
import io
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import combine
from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.data.split import make_split
from common.inference.cluster import chunks
from common.inference.cluster.chunks import find_work
from common.inference.cluster.parts import Parts
from common.model import checkpoint
from common.model.weights import create_classifier
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.photos import file as photo_file

# Ray Data sets its own deprecated settings, and leaves sockets and pipes of its processes open.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PHOTOS = 60
TINY = {"model": "test_efficientnet", "pretrained": False, "size": (48, 48)}


@pytest.fixture(scope="module")
def photos(faces, tmp_path_factory) -> Path:
    """A folder of 60 drawn photos, one of which is none, in two folders."""
    folder = tmp_path_factory.mktemp("photos")
    for number, face in enumerate(faces[:PHOTOS]):
        place = (
            folder / ("even" if number % 2 == 0 else "odd 100%") / f"{number:02} {face.view}.jpg"
        )
        place.parent.mkdir(exist_ok=True)
        shutil.copyfile(face.path, place)
    (folder / "odd 100%" / "29 bad.jpg").write_bytes(b"<html>404</html>")
    next((folder / "odd 100%").glob("31*")).unlink()
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory, faces) -> list[str]:
    """combine.py's flags for untrained models whose answers differ: two of a kind, and one export."""
    from common.model import export

    folder = tmp_path_factory.mktemp("models")
    _, split = make_split({face.person for face in faces}, folds=3, fold=0, limit=None)
    flags = []
    for recipe, seed in ((MaskRecipe, 0), (GenderRecipe, 0), (AgeRecipe, 0), (AgeRecipe, 1)):
        own = recipe(**TINY, seed=seed)
        torch.manual_seed(seed)
        model, _ = create_classifier(own)
        with torch.no_grad():
            model.backbone.get_classifier().weight.mul_(1000)
        card = checkpoint.make_card(own, model, split=split, metrics={})
        out = folder / f"{own.task}{seed}.pt"
        checkpoint.save(out, card, model.backbone.state_dict())
        flags += [f"--{own.task}"] if not seed else []
        flags.append(str(out))
    assert export.main([str(folder / "gender0.pt")]) == 0
    return [flag.replace("gender0.pt", "gender0.onnx") for flag in flags]


@pytest.fixture(scope="module")
def cluster():
    """Two workers, which all runs of this module share."""
    import ray

    from common.inference.cluster.run import ray_connection

    with ray_connection("local"):
        yield ray


def combined(*line: object) -> tuple[int, str, str]:
    """The exit status of combine.py, and what it prints on stdout and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = combine.main([str(word) for word in (*line, "--device", "cpu", "--workers", "0")])
    return status, out.getvalue(), err.getvalue()


def actors() -> list[int]:
    """The processes that answer, among those that this one started."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if (
                b"ray::" in (entry / "cmdline").read_bytes()
                and b"ChunkPredictor" in (entry / "cmdline").read_bytes()
                and _is_ours(int(entry.name))
            ):
                found.append(int(entry.name))
    return found


def _is_ours(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def kill_one(output: Path, killed: list[int], over: threading.Event) -> None:
    """Kill a worker once the first part is there; `killed` gets how many there were then."""
    while not over.is_set():
        parts, workers = len(list(output.glob("part-*"))), actors()
        if parts and workers:
            os.kill(workers[0], signal.SIGKILL)
            killed.append(parts)
            return
        time.sleep(0.02)


@pytest.fixture(scope="module")
def killed_run(photos, models, cluster, tmp_path_factory) -> tuple[Path, tuple[int, str, str]]:
    """The parts of a run that lost a worker, and what was said."""
    output = tmp_path_factory.mktemp("run") / "codes"
    killed, over = [], threading.Event()
    killer = threading.Thread(target=kill_one, args=(output, killed, over))
    killer.start()
    try:
        said = combined(*models, "--tta", "flip", "--input", photos, "--output", output, "--ray")
    finally:
        over.set()
        killer.join()
    assert killed and killed[0] < len(list(output.glob("part-*"))) == 4
    return output, said


def test_the_codes_are_those_without_ray_though_a_worker_is_killed(
    killed_run, photos, models, tmp_path
):
    output, (status, said, wrong) = killed_run
    csv, probs = tmp_path / "s.csv", tmp_path / "p.csv"
    line = [*models, "--tta", "flip", "--input", photos, "--output", csv, "--probs", probs]
    alone = combined(*line, "--cache-dir", tmp_path / "cache")
    assert status == alone[0] == 2  # a photo is none
    table = pd.read_parquet(output)
    expected = pd.read_csv(csv)
    assert table["ImageID"].tolist() == expected["ImageID"].tolist()
    assert table["ans"].tolist() == expected["ans"].astype("Int64").tolist()
    assert expected["ans"].nunique() > 2
    details = pd.read_csv(probs)
    both = details.select_dtypes("float").columns
    np.testing.assert_allclose(table[both].astype(float), details[both], atol=2e-6)
    assert table["face_found"].eq(True).sum() == details["face_found"].eq(True).sum() > 0
    bad = table[table["ImageID"] == "odd 100%/29 bad.jpg"].iloc[0]
    assert bad["error"].startswith("not a photo of a known format")
    assert table["error"].count() == table["ans"].isna().sum() == 1
    assert "error: 1 of 60 photos can't be used and 0 are allowed (--allow-bad 1" in wrong
    assert [
        line for line in said.splitlines() if line.startswith(("mask  ", "gender  ", "age  "))
    ] == [
        line for line in alone[1].splitlines() if line.startswith(("mask  ", "gender  ", "age  "))
    ]


def test_a_restart_makes_only_what_is_missing(killed_run, photos, models, cluster):
    output, _ = killed_run
    whole = {file.name: file.read_bytes() for file in output.glob("part-*")}
    lost, cut = output / "part-000001.parquet", output / "part-000002.parquet"
    lost.unlink()
    cut.write_bytes(whole[cut.name][:-9])
    times = {file: file.stat().st_mtime_ns for file in output.glob("part-*")}
    line = [*models, "--tta", "flip", "--input", photos, "--output", output, "--ray"]
    status, said, wrong = combined(*line, "--allow-bad", 1)
    assert status == 0 and "2 of 4 parts exist already" in said
    assert f"{cut}: incomplete or damaged" in wrong
    assert "60 rows (32 of them in" in said
    assert {f for f, t in times.items() if f.stat().st_mtime_ns != t} == {cut}
    assert {file.name: file.read_bytes() for file in output.glob("part-*")} == whole


def test_parts_of_other_runs_are_refused(killed_run, photos, models, tmp_path):
    output, _ = killed_run
    line = [*models, "--input", photos, "--output", output, "--ray"]
    status, _, wrong = combined(*line)
    assert status == 2 and "its parts were made with another tta; name" in wrong
    more = shutil.copytree(photos, tmp_path / "photos")
    for photo in (more / "even").iterdir():
        photo.rename(photo.with_suffix(".jpeg"))
    *line, _ = [
        *models,
        "--tta",
        "flip",
        "--vote",
        "hard",
        "--input",
        more,
        "--output",
        output,
        "x",
    ]
    status, _, wrong = combined(*line, "--ray")
    assert status == 2 and "made with another vote, input, photos; name another folder" in wrong
    (output / "_manifest.json").rename(tmp_path / "m")
    status, _, wrong = combined(*line, "--ray")
    (tmp_path / "m").rename(output / "_manifest.json")
    assert status == 2 and "holds other files" in wrong
    status, _, wrong = combined(*models, "--input", photos, "--output", models[1], "--ray")
    assert status == 2 and "a file; with --ray it is a folder of parts" in wrong


def test_a_table_of_bytes_is_answered_as_its_photos(killed_run, photos, models, cluster, tmp_path):
    output, _ = killed_run
    expected = pd.read_parquet(output).iloc[20:50].reset_index(drop=True)
    content = [(photos / name).read_bytes() for name in expected["ImageID"]]
    table = pa.table({"ImageID": expected["ImageID"], "bytes": pa.array(content, pa.binary())})
    (tmp_path / "tables").mkdir()
    pq.write_table(table[:21], tmp_path / "tables" / "a.parquet", row_group_size=5)
    pq.write_table(table[21:], tmp_path / "tables" / "b.parquet")
    source, other = (tmp_path / "tables").as_uri(), tmp_path / "other"
    line = [*models, "--tta", "flip", "--allow-bad", 1, "--input", source, "--output", other]
    status, said, wrong = combined(*line, "--ray")
    assert status == 0 and "warning: 1 of 30 photos can't be used" in wrong
    answered = pd.read_parquet(other)
    pd.testing.assert_frame_equal(answered, expected, atol=2e-6)
    assert len(list(other.glob("part-*"))) == 3  # 16 and 5 of the one table, 9 of the other


def test_what_stops_a_worker_is_said_in_one_line(models, cluster, tmp_path):
    pq.write_table(pa.table({"path": ["xyz://bucket/a.jpg"]}), tmp_path / "t.parquet")
    line = [*models, "--input", tmp_path / "t.parquet", "--output", tmp_path / "codes", "--ray"]
    status, _, wrong = combined(*line)
    assert status == 2 and list((tmp_path / "codes").glob("part-*")) == []
    assert "error: --ray: a worker failed: Unrecognized filesystem type in URI: xyz:" in wrong
    assert "Traceback" not in wrong


def fetched(source: Path | str, folder: Path) -> list[tuple[str, bytes | None]]:
    """Names and contents of all photos of a source, chunk by chunk."""
    found = []
    for number, chunk in enumerate(find_work(source, None).chunks):
        (folder / str(number)).mkdir(parents=True)
        names, files = chunk.fetch(folder / str(number))
        assert len(chunk) == len(names)
        found += [
            (n, f.read_bytes() if f.exists() else None) for n, f in zip(names, files, strict=True)
        ]
    return found


def test_a_uri_lists_and_holds_what_the_folder_does(photos, tmp_path):
    (hidden := photos / ".trash" / "x.jpg").parent.mkdir()
    hidden.write_bytes(b"")
    here = fetched(photos, tmp_path / "here")
    assert here == fetched(photos.as_uri(), tmp_path / "there")
    assert len(here) == PHOTOS and len(dict(here)) == PHOTOS
    single = next(photos.glob("odd*/01*"))
    assert fetched(single.as_uri(), tmp_path / "one") == [(single.name, single.read_bytes())]


def test_other_photos_under_the_same_names_are_other_work(photos, tmp_path):
    """Parts that exist already are those of other photos then."""
    folder = shutil.copytree(photos, tmp_path / "photos")
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"bytes": [b"one", b"two"], "ImageID": ["a", "b"]}), table)
    sources = (folder, folder.as_uri(), table, table.as_uri())
    before = [chunks.find_work(source, None).digest for source in sources]
    assert before == [chunks.find_work(source, None).digest for source in sources]
    photo = next(path for path in (folder / "even").iterdir() if path.is_file())
    photo.write_bytes(photo.read_bytes()[::-1])  # as many bytes
    pq.write_table(pa.table({"bytes": [b"two", b"one"], "ImageID": ["a", "b"]}), table)
    after = [chunks.find_work(source, None).digest for source in sources]
    assert all(a != b for a, b in zip(before, after, strict=True))


def test_what_a_killed_driver_left_of_a_part_is_removed(tmp_path):
    left = tmp_path / ".part-000003.parquet.abcdefgh.part"
    left.write_bytes(b"half")
    Parts(tmp_path, {}, 18).start([])
    assert not left.exists()


@pytest.mark.parametrize("rows", [1, 16, 17, 150])
def test_a_tables_rows_come_once_and_in_order(tmp_path, rows):
    """Whatever row groups it has: batches of 64 rows are read from groups of 70."""
    names = [f"{number}.jpg" for number in range(rows)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    places = [
        name if i % 3 else str(tmp_path / name) if i % 2 else (tmp_path / name).as_uri()
        for i, name in enumerate(names)
    ]
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"path": places, "ImageID": range(rows)}), table, row_group_size=70)
    expected = [(str(i), name.encode()) for i, name in enumerate(names)]
    assert fetched(table, tmp_path / "here") == expected
    pq.write_table(pa.table({"path": [*places[1:], None, "gone.jpg"]}), table)
    *some, none, gone = fetched(table.as_uri(), tmp_path / "there")
    assert some == list(zip(places[1:], (n.encode() for n in names[1:]), strict=True))
    assert none[1] is None and gone == ("gone.jpg", None)


def test_chunks_grow_with_the_photos_to_a_thousand():
    sizes = {n: chunks._size(n) for n in (1, 60, 10_000, 256_000, 10**8)}
    assert sizes == {1: 16, 60: 16, 10_000: 40, 256_000: 1000, 10**8: 1000}


UNUSABLE = {
    "no column path or bytes; found name": {"name": ["a"]},
    "column path is int64, expected string": {"path": [1]},
    "column bytes is string, expected binary": {"bytes": ["a"], "path": ["a"]},
    "no rows": {"path": pa.array([], pa.string())},
}


@pytest.mark.parametrize("message", UNUSABLE)
def test_tables_that_name_no_photos_are_refused(tmp_path, message):
    pq.write_table(pa.table(UNUSABLE[message]), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=f"t.parquet: {message}"):
        find_work(tmp_path / "t.parquet", None)


def test_sources_without_photos_are_refused(tmp_path):
    for source, message in (
        (tmp_path.as_uri(), "no photos .* and no .parquet files there"),
        (tmp_path, "no photos in it or below"),
        (f"{tmp_path.as_uri()}/gone", "no such file, folder or prefix"),
        ("xyz://bucket/photos", "Unrecognized filesystem type"),
    ):
        with pytest.raises(UserError, match=message):
            find_work(source, None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="a.parquet: .*[Pp]arquet"):
        find_work(tmp_path, None)
    (tmp_path / "a.jpg").write_bytes(photo_file("JPEG"))
    with pytest.raises(UserError, match=r"photos \(a.jpg\) and Parquet tables \(a.parquet\)"):
        find_work(tmp_path, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--ray --held-out --probs x", "without --held-out, --probs"),
        ("--ray --faces all --draw x", "without --draw, --faces all"),
        ("--ray --labels x.csv", "without --labels"),
        ("--ray --device cuda:1", "with --ray it is auto, cpu or cuda"),
        ("--ray --output s3://b/x", "expected a folder of this machine"),
        ("--ray --input . --output codes", "lies in the folder of photos"),
        ("--input s3://bucket/photos", "a URI goes with --ray"),
    ],
)
def test_flags_that_do_not_go_with_ray_are_refused(capsys, line, message):
    assert combine.main(line.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:9", "no Ray cluster there .Connection refused.; expected auto or host:port"),
        ("127.0.0.1", "no Ray cluster there .no port."),
        ("ray://127.0.0.1:10001", "Ray Data doesn't work through such a URI"),
    ],
)
def test_a_cluster_that_is_not_there_is_named(address, message):
    from common.inference.cluster.run import ray_connection

    with pytest.raises(UserError, match=f"--ray {address}: {message}"), ray_connection(address):
        pass


def test_without_ray_the_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    assert combine.main(["--mask", "m.pt", "--gender", "g.pt", "--age", "a.pt", "--ray"]) == 2
    assert "pip install '.[ray]' brings it" in capsys.readouterr().err
