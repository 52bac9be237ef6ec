"""Messages about bad input: each row of tests/bad_inputs.md is made, given to the code and compared.

WRITE_TABLE=1 python -m pytest tests/test_bad_inputs.py      writes the table anew
"""

import contextlib
import csv
import dataclasses
import io
import os
import re
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

import combine
from age.recipe import AgeRecipe
from common.base.errors import UserError
from common.data.layout import age_band, read_faces, read_people
from common.data.listing import find_photos
from common.data.loading import prepare_crops
from common.faces.cache import usable_cache
from common.faces.crop import CropSpec
from common.faces.decode import MAX_BYTES, BadPhoto, decode, read_bytes
from common.model import checkpoint
from common.model.loaded import load
from common.model.recipe import Recipe
from common.model.weights import create_classifier
from common.training.command import main
from gender.recipe import GenderRecipe
from mask.recipe import MaskRecipe
from tests.clips import index_first, numbered, write_clip
from tests.conftest import draw
from tests.payloads import Payload, seal
from tests.photos import (
    ACCEPTED,
    REJECTED,
    exif_photo,
    file,
    swapped_profile,
)

TABLE = Path(__file__).with_name("bad_inputs.md")
HEAD = """# What bad input gets

Written by `WRITE_TABLE=1 python -m pytest tests/test_bad_inputs.py`, and compared in every test
run. What stands after "exit" is the status of the command; lines of a message are parted by " / ".
"""
TINY = {"model": "test_efficientnet", "size": (48, 48), "pretrained": False, "crop": "face"}
TRAIN = "--model test_efficientnet --size 48 --no-pretrained --crop none --folds 2 --epochs 1"
NOBODY = 65534
Rows = Iterator[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Home:
    """A folder of this test's own; `models` holds m.pt, g.pt and a.pt that learned nothing."""

    folder: Path
    models: Path
    data: Path

    def combine(self, line: str) -> str:
        """Messages of combine.py with the three models, unless `line` names others."""
        models = [f"--{recipe.task}={self.models / recipe.task[0]}.pt" for recipe in combine.TASKS]
        rest = f"--workers 0 --device cpu --cache-dir {self.folder / 'cache'} {line}".split()
        return self.said(lambda: combine.main([*models, *rest]))

    def train(self, data: Path, line: str = "", recipe: type[Recipe] = MaskRecipe) -> str:
        """Messages of `python -m <task>.train` on `data`."""
        place = f"--out {self.folder / f'{recipe.task}.pt'} --log-dir {self.folder / 'runs'} --device cpu"
        cache = f"--cache-dir {self.folder / 'cache'} --workers 0"
        line = f"{TRAIN} {place} {cache} --data {data} {line}"
        return self.said(lambda: main(recipe, line.split()))

    def said(self, command: Callable[[], int]) -> str:
        """The exit status and what a command prints on stderr from "error" or "warning" on."""
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                status = command()
            except SystemExit as stop:
                status = stop.code
        text = re.sub(r"[^\r\n]*%\|[^\r\n]*[\r\n]*", "", errors.getvalue())  # progress bars
        found = re.search(r"^(error|warning|left out): .*", text, re.M | re.S)
        return self.short(f"exit {status}" + (f": {found.group().strip()}" if found else ""))

    def got(self, call: Callable[[], object]) -> str:
        """Return a function's result, or the error that it raises."""
        try:
            return f"accepted: {self.short(str(call()))}"
        except (UserError, BadPhoto) as error:
            return f"refused: {self.short(str(error))}"

    def short(self, text: str) -> str:
        """A message in one line, without the folders of this machine and Pillow's own words."""
        for folder in (self.folder, self.models):
            text = text.replace(f"{folder}/", "")
        text = re.sub(
            r"(damaged: )(?!digest|the ).*", r"\1…", text.replace(str(self.folder), "DIR")
        )
        return " / ".join(line.strip() for line in text.splitlines() if line.strip())

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


@pytest.fixture(scope="module")
def quoted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same people at every TEST_SEED, since the table quotes their ages and groups."""
    return draw(tmp_path_factory.mktemp("quoted") / "data", 0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    split = {"folds": 5, "fold": 0, "limit": None, "hash": "0" * 16, "held_out": ["000001"]}
    for recipe in combine.TASKS:
        own = recipe(**TINY)
        torch.manual_seed(0)
        model, _ = create_classifier(own)
        card = checkpoint.make_card(own, model, split=split, metrics={"macro_f1": 0.5})
        checkpoint.save(folder / f"{own.task[0]}.pt", card, model.backbone.state_dict())
    return folder


# Photos


def refused_photos(home: Home) -> Rows:
    for name, data in REJECTED.items():
        yield name, home.got(lambda data=data: shape_words(decode(data)))


def shape_words(photo: np.ndarray) -> str:
    return f"{photo.shape[1]} x {photo.shape[0]} pixels of 8-bit RGB"


def odd_photos(home: Home) -> Rows:
    """tests/test_decode.py looks at their pixels."""
    odd = {name: data for name, (data, _) in ACCEPTED.items()}
    odd |= {f"EXIF orientation {n}": exif_photo(n) for n in range(2, 9)}
    odd |= {"wide gamut": file("JPEG", icc_profile=swapped_profile(b"Wide"))}
    odd |= {"damaged colour profile": file("JPEG", icc_profile=swapped_profile(b"Wide")[:200])}
    for name, data in odd.items():
        yield name, home.got(lambda data=data: shape_words(decode(data)))


def faces(home: Home) -> Rows:
    """The detector's column of --probs."""
    person = cv2.imread(str(next(f.path for f in read_faces(home.data) if f.view == "normal")))
    blank = np.zeros_like(person)
    photos = {
        "a face": person,
        "two faces": np.hstack([person, person]),
        "a face upside down": person[::-1].copy(),
        "a face cut by the edge": person[:, person.shape[1] // 2 :],
        "a face of a few pixels": cv2.resize(person, (24, 32), interpolation=cv2.INTER_AREA),
        "black": blank,
        "white": blank + 255,
        "noise": np.random.default_rng(0).integers(0, 256, person.shape, dtype=np.uint8),
    }
    (home.folder / "in").mkdir()
    for name, photo in photos.items():
        cv2.imwrite(str(home.folder / "in" / f"{name}.png"), photo)
    status = home.combine(
        f"--input {home.folder}/in --output {home.folder}/s.csv --probs {home.folder}/p.csv"
    )
    seen = pd.read_csv(home.folder / "p.csv").set_index("ImageID")
    for name in photos:
        row = seen.loc[f"{name}.png"]
        yield name, f"{status}: answered, face_found {row['face_found']}, faces {row['faces']}"


# Files


def file_names(home: Home) -> Rows:
    """One folder, one run; a row is what submission.csv and its .failed.csv hold for a name."""
    folder = home.folder / "in"
    photos = (
        b"upper.JPG",
        b"a, b.jpg",
        b"new\nline.jpg",
        b"caf\xe9.jpg",
        b"folder.jpg/b.jpg",
        b"linked/c.jpg",
    )
    others = (b"Thumbs.db", b"._resource.jpg", b"bad\nline.jpg", b"notes.txt")
    for name, content in (*((n, file("JPEG")) for n in photos), *((n, b"x") for n in others)):
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    os.mkfifo(folder / "fifo.jpg")
    (folder / "loop").symlink_to(folder)
    (folder / "again").symlink_to(folder / "linked")
    (folder / "broken.jpg").symlink_to(folder / "gone.jpg")
    with (folder / "huge.jpg").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    said = home.combine(f"--input {folder} --output {home.folder}/s.csv")
    answers = table_rows(home.folder / "s.csv")
    failed = table_rows(home.folder / "s.csv.failed.csv")
    for name in sorted(answers):
        reason = failed.get(name)
        assert (answers[name] == "") == (reason is not None)
        yield repr(name)[1:-1], home.short(f"left empty: {reason}" if reason else "answered")
    unseen = ["Thumbs.db", "._resource.jpg", "notes.txt", "loop/upper.JPG"]
    assert not set(unseen) & set(answers)
    yield "Thumbs.db, ._resource.jpg, notes.txt; what a link to the folder leads to", "no photo"
    yield "the run as a whole", said


def table_rows(path: Path) -> dict[str, str]:
    """A table of two columns; names needn't be UTF-8."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return dict(list(csv.reader(file))[1:])


@contextlib.contextmanager
def nobodys() -> Iterator[Path]:
    """A folder of a user without rights, whom root becomes for a while, since root reads all."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        if user == 0:
            os.chown(folder, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)


def permissions(home: Home) -> Rows:
    read_faces(home.data)  # what this imports, another user mightn't read
    with nobodys() as folder:
        home = dataclasses.replace(home, folder=folder)
        photo = home.write("photo.jpg", file("JPEG"))
        photo.chmod(0)
        yield "a photo that can't be read", home.got(lambda: read_bytes(photo))
        inner = home.write("in/b/photo.jpg", b"").parent
        inner.chmod(0)
        yield "a folder that can't be read", home.got(lambda: find_photos(folder / "in"))
        table = home.write("train/train.csv", "gender,age,path\nmale,20,b\n")
        home.write("train/images/b/photo.jpg", b"").parent.chmod(0)
        yield "a person's folder that can't be read", home.got(lambda: read_faces(folder))
        table.chmod(0)
        yield "a table that can't be read", home.got(lambda: read_people(table))
        cache = folder / "cache"
        cache.mkdir(mode=0o500)
        warning = usable_cache(cache)[1]
    words = home.short(re.sub(r"to .*", "to a folder of its own", warning))
    yield "a cache that can't be written", f"accepted: warning: {words}"


def changing_files(home: Home) -> Rows:
    paths = [home.write(f"in/{name}.png", file("PNG")) for name in "ab"]
    find_photos(home.folder / "in")
    paths[1].unlink()
    spec, cache = CropSpec("none", 0, (32, 32)), home.folder / "cache"
    crops = home.got(lambda: prepare_crops(paths, spec, cache, workers=0))
    yield "a photo deleted after it was listed", crops
    with small_files(limit=100):
        full = home.folder / "full"
        crops = home.got(lambda: prepare_crops(paths[:1], spec, full, workers=0))
    shutil.rmtree(full)
    yield "no more room in the cache", re.sub(r"full/\S+", "full/…", crops)
    model = home.folder / "m.pt"
    shutil.copy(home.models / "m.pt", model)
    content = checkpoint.read(model)
    with small_files(limit=50_000):
        try:
            checkpoint.save(model, content["card"], content["state_dict"])
        except OSError as error:
            said = f"refused: {home.short(str(error.filename))}: {error.strerror}"
    assert sorted(path.name for path in home.folder.iterdir()) == ["cache", "in", "m.pt"]
    assert checkpoint.read(model)["card"] == content["card"]
    yield "no more room while a checkpoint is saved", f"{said}; the old one is kept"
    os.mkfifo(home.folder / "fifo")
    for name in ("fifo", "in", "none/s.csv"):
        said = home.combine(f"--input {home.folder}/in --output {home.folder}/{name}")
        yield f"--output {name}", said


@contextlib.contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes: writing fails as it does on a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


# Tables

HEADER = "id,gender,race,age,path"
PERSON = "000001,male,Asian,20,a"


def training_tables(home: Home) -> Rows:
    tables = {
        "no column age": "id,gender,path\n1,male,a\n",
        "byte order mark": f"\ufeff{HEADER}\n{PERSON}\n",
        "semicolons": f"{HEADER}\n{PERSON}\n".replace(",", ";"),
        "CRLF": f"{HEADER}\r\n{PERSON}\r\n",
        "CR line ends": f"{HEADER}\r{PERSON}\r",
        "tabs": f"{HEADER}\n{PERSON}\n".replace(",", "\t"),
        "sep=; and semicolons": f"sep=;\n{HEADER}\n{PERSON}\n".replace(",", ";"),
        "remarks before the header": f"# by hand\n\n{HEADER}\n{PERSON}\n",
        "spaces and capitals in the header": f"{HEADER}\n{PERSON}\n".replace(",", ", ").title(),
        "UTF-16": f"{HEADER}\n{PERSON}\n".encode("utf-16"),
        "UTF-16 without a mark": f"{HEADER}\n{PERSON}\n".encode("utf-16-le"),
        "cp949": f"{HEADER}\n000001,남,한국,20,가\n".encode("cp949"),
        "two columns age": f"{HEADER},age\n{PERSON},61\n",
        "two columns age, spelled otherwise": f"{HEADER}, AGE\n{PERSON},61\n",
        "no column path, but Pfad": "id,Pfad\n1,a\n",
        "zero bytes": f"{HEADER}\n{PERSON}\0\n",
        "empty rows and columns": f"{HEADER},,\n{PERSON},,\n,,,,,,\n",
        '="000001"': f'{HEADER}\n"=""000001""",male,Asian,20,a\n',
        "no-break and full-width characters": f"{HEADER}\n1,\xa0ｍａｌｅ,,２０,a\u3000\n",
        "gender M": f"{HEADER}\n1,M,Asian,20,a\n",
        "gender 0": f"{HEADER}\n1,0,Asian,20,a\n",
        "path ./a/": f"{HEADER}\n1,male,Asian,20,./a/\n",
        "Latin-1": f"{HEADER}\n000001,male,é,20,a\n".encode("latin-1"),
        "empty": "",
        "no rows": f"{HEADER}\n",
        "a row too long": f"{HEADER}\n{PERSON}\n{PERSON},x\n",
        "commas at the end": f"{HEADER}\n{PERSON},\n",
        "an open quotation mark": f'{HEADER}\n000001,"male,Asian,20,a\n',
        "id with leading zeros": f"{HEADER}\n{PERSON}\n",
        "the same id, another path": f"{HEADER}\n{PERSON}\n000001,male,Asian,20,b\n",
        "the same path": f"{HEADER}\n{PERSON}\n{PERSON}\n",
        "the same path, another gender": f"{HEADER}\n{PERSON}\n000001,female,Asian,20,a\n",
        "unknown gender": f"{HEADER}\n000001,mail,Asian,20,a\n",
        "no gender": f"{HEADER}\n000001,,Asian,20,a\n",
        "path that leaves the folder": f"{HEADER}\n000001,male,Asian,20,../a\n",
    }
    ages = ("150", "-1", "NaN", "30s", "", "29.5", "29", "30", "59", "60", "48.0", "20-29", "25-32")
    for age in (*ages, "60대 이상", "48 years", "60~69", "u", "-", "thirty", "3-Sep"):
        tables[f"age {age!r}"] = f"{HEADER}\n000001,male,Asian,{age},a\n"
    for name, text in tables.items():
        table = home.write("train.csv", text)
        yield name, home.got(lambda table=table: people_words(table))
    data = home.folder / "data"
    home.write("data/train/train.csv", f"{HEADER}\n{PERSON}\n")
    (data / "train" / "images").mkdir()
    yield "a person without a folder", home.got(lambda: read_faces(data))
    home.write("data/train/images/a/Thumbs.db", "")
    yield "a folder without a photo", home.got(lambda: read_faces(data))


def people_words(table: Path) -> str:
    people = read_people(table)
    ages = [
        "age not known" if p.age is None else f"{p.age}, group {age_band(p.age)}" for p in people
    ]
    return "; ".join(
        f"id {p.columns['id']}, {p.gender or 'gender not known'}, {age}"
        for p, age in zip(people, ages, strict=True)
    )


def eval_tables(home: Home) -> Rows:
    """combine.py on a folder of two photos, a.jpg and b.jpg."""
    for name in "ab":
        home.write(f"eval/{name}.jpg", file("JPEG"))
    tables = {
        "no column ImageID": "image,ans\na.jpg,0\n",
        "no rows": "ImageID,ans\n",
        "an id that stands twice": "ImageID,ans\na.jpg,0\nb.jpg,0\na.jpg,0\n",
        "an id without a photo": "ImageID,ans\na.jpg,0\nnone.jpg,0\n",
        "semicolons, CRLF, byte order mark": "\ufeffImageID;ans\r\na.jpg;0\r\n",
        "two columns ans": "ImageID,ans,ans\na.jpg,3,4\n",
        "an id that leads out of the folder": "ImageID,ans\n../a.jpg,0\n",
        "ids with .\\": "ImageID,ans\n.\\a.jpg,0\n",
    }
    line = f"--input {home.folder}/eval --output {home.folder}/s.csv"
    for name, text in tables.items():
        home.write("eval/info.csv", text)
        yield name, home.combine(line)
    home.write("eval/info.csv", tables["an id without a photo"])
    yield "an id without a photo, --allow-bad 1", home.combine(f"{line} --allow-bad 1")
    assert table_rows(home.folder / "s.csv")["none.jpg"] == ""
    labels = {
        "--labels: code 18": "ImageID,ans\na.jpg,18\nb.jpg,0\n",
        "--labels: no code": "ImageID,ans\na.jpg,\nb.jpg,0\n",
        "--labels: an id that stands twice": "ImageID,ans\na.jpg,0\nb.jpg,0\na.jpg,1\n",
        "--labels: a photo without a row": "ImageID,ans\na.jpg,0\n",
        "--labels: codes 0.0 and １": "ImageID,ans\na.jpg,0.0\nb.jpg,１\n",
    }
    home.write("eval/info.csv", "ImageID\na.jpg\nb.jpg\n")
    for name, text in labels.items():
        home.write("labels.csv", text)
        yield name, home.combine(f"{line} --labels {home.folder}/labels.csv")
    home.write("labels.csv", "ImageID,ans,age\na.jpg,0,old\nb.jpg,0,121\n")
    line = f"{line} --labels {home.folder}/labels.csv --report"
    yield "--labels: ages that are none, --report", home.combine(f"{line} {home.folder}/report")
    home.write("labels.csv", "ImageID,ans\na.jpg,0\nb.jpg,0\n")
    yield "--report: a file", home.combine(f"{line} {home.folder}/labels.csv")


# Checkpoints


def checkpoints(home: Home) -> Rows:
    """Each through prediction, --resume and --weights."""
    whole = (home.models / "a.pt").read_bytes()
    content = checkpoint.read(home.models / "a.pt")
    card, tensors = content["card"], content["state_dict"]
    proof = home.folder / "executed"

    def save_payload(file: Path, **options: bool) -> None:
        torch.save({"card": Payload(os.mkdir, str(proof)), "state_dict": {}}, file, **options)
        seal(file)

    nan = tensors | {"conv_stem.weight": tensors["conv_stem.weight"] * torch.nan}
    other = create_classifier(AgeRecipe(**TINY | {"model": "test_resnet"}))[0].backbone.state_dict()
    flipped = bytearray(whole)
    flipped[whole.index(tensors["conv_stem.weight"].numpy().tobytes())] ^= 1
    made: dict[str, Callable[[Path], object]] = {
        "empty": lambda file: file.write_bytes(b""),
        "half": lambda file: file.write_bytes(whole[: len(whole) // 2]),
        "random bytes": lambda file: file.write_bytes(np.random.default_rng(0).bytes(9999)),
        "a flipped bit": lambda file: file.write_bytes(flipped),
        "a payload": save_payload,
        "a payload in the old format": lambda file: save_payload(
            file, _use_new_zipfile_serialization=False
        ),
        "another task's": lambda file: shutil.copy(home.models / "g.pt", file),
        "classes in another order": lambda file: checkpoint.save(
            file, card | {"classes": card["classes"][::-1]}, tensors
        ),
        "weights of another architecture": lambda file: checkpoint.save(file, card, other),
        "half a recipe": lambda file: checkpoint.save(
            file, card | {"recipe": {"model": TINY["model"]}}, tensors
        ),
        "a newer format": lambda file: checkpoint.save(
            file, card | {"format": checkpoint.FORMAT + 1}, tensors
        ),
        "NaN weights": lambda file: checkpoint.save(file, card, nan),
        "a folder": Path.mkdir,
    }
    for name, make in made.items():
        make(home.folder / "x.pt")
        given = home.got(lambda: load(home.folder / "x.pt", AgeRecipe))
        resumed = home.train(home.data, f"--resume {home.folder}/x.pt", AgeRecipe)
        weights = AgeRecipe(**TINY, weights=home.folder / "x.pt")
        started = home.got(lambda own=weights: create_classifier(own)[1])
        yield f"{name}: --age", re.sub(r"(doesn't fit: [\w ()]+:).*", r"\1 …", given)
        yield f"{name}: --resume", resumed
        yield f"{name}: --weights", re.sub(r"(not a file of weights:).*", r"\1 …", started)
        (shutil.rmtree if name == "a folder" else os.remove)(home.folder / "x.pt")
    assert not proof.exists()
    copy = home.folder / "copy.pt"
    shutil.copy(home.models / "a.pt", copy)
    both = f"--age {home.models / 'a.pt'} {copy} --input {home.folder}/x.jpg"
    home.write("x.jpg", file("JPEG"))
    yield "the same twice: --age a.pt copy.pt", home.combine(both)


# Runs


def small_data(home: Home) -> Path:
    """Four drawn people, one of each gender below 30 and above, three views each."""
    data = home.folder / "data"
    chosen = []
    for face in read_faces(home.data):
        key = face.person.gender, age_band(face.person.age)
        if key[1] < 2 and face.view in ("mask1", "incorrect_mask", "normal"):
            chosen.append(face)
            path = data / "train" / "images" / face.person.key / face.path.name
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(face.path, path)
    rows = {f.person.key: f"1,{f.person.gender},x,{f.person.age},{f.person.key}" for f in chosen}
    home.write("data/train/train.csv", "\n".join([HEADER, *rows.values(), ""]))
    return data


def trainings(home: Home) -> Rows:
    data = small_data(home)
    yield "nobody of 60 and above", home.train(data)
    yield "nobody of 60 and above, the age task", home.train(data, recipe=AgeRecipe)
    yield "fewer people than folds", home.train(data, "--folds 9")
    yield "no data", home.train(home.folder / "nowhere")
    photos = sorted(data.glob("train/images/*/*"))
    for photo in photos[:2]:
        photo.write_bytes(b"\xff\xd8\xff half a photo")
    yield "2 bad photos", home.train(data)
    yield "2 bad photos, --allow-bad 1", home.train(data, "--allow-bad 1")
    yield "2 bad photos, --allow-bad 2", home.train(data, "--allow-bad 2", GenderRecipe)
    for photo in photos:
        photo.write_bytes(b"")
    everything = home.train(data, f"--allow-bad {len(photos)}")
    yield (
        "all photos bad, and allowed",
        re.sub(r"(left out: .*? / )+", "left out: … / ", everything),
    )


def predictions(home: Home) -> Rows:
    home.write("in/a.jpg", file("JPEG"))
    for name in ("b.jpg", "c.jpg"):
        home.write(f"in/{name}", b"")
    line = f"--input {home.folder}/in --output {home.folder}/s.csv"
    for more in ("", " --allow-bad 1", " --allow-bad 2"):
        yield f"2 bad photos of 3{more and ','}{more}", home.combine(line + more)
        assert list(table_rows(home.folder / "s.csv.failed.csv")) == ["b.jpg", "c.jpg"]
        assert list(table_rows(home.folder / "s.csv")) == ["a.jpg", "b.jpg", "c.jpg"]
    (home.folder / "in" / "a.jpg").unlink()
    yield "all photos bad, and allowed", home.combine(f"{line} --allow-bad 2")
    home.write("in/b.jpg", file("JPEG"))
    (home.folder / "in" / "c.jpg").unlink()
    yield "none bad any more", home.combine(line)
    assert not (home.folder / "s.csv.failed.csv").exists()
    yield "a single bad photo", home.combine(f"--input {home.write('x.jpg', b'')}")
    for name in ("a.jfif", "b.JPE", "c.HEIC", "d.jpg.chip", "e"):
        home.write(f"odd/{name}", file("JPEG"))
    for name, content in (("f.HEIC", b"\0\0\0\x18ftypheic"), ("g.txt", b"x"), ("h", b"")):
        home.write(f"odd/{name}", content)
    line = f"--input {home.folder}/odd --output {home.folder}/s.csv"
    yield "5 photos by content, 3 other files", home.combine(line)
    assert len(table_rows(home.folder / "s.csv")) == 5
    home.write("nothing/notes.txt", "")
    yield "a folder without photos", home.combine(f"--input {home.folder}/nothing")


def videos(home: Home) -> Rows:
    whole = write_clip(home.folder / "whole.mp4", numbered(20)).read_bytes()
    indexed = bytearray(index_first(whole))
    hurt = len(indexed) - len(indexed) // 4
    indexed[hurt : hurt + 40] = bytes(40)
    files = {
        "an HTML page": b"<html>not a video</html>",
        "an empty file": b"",
        "a photo": file("PNG"),
        "a playlist, which would lead elsewhere": b"#EXTM3U\n#EXTINF:9,\nwhole.mp4\n#EXT-X-ENDLIST\n",
        "a list of files to join": b"ffconcat version 1.0\nfile whole.mp4\n",
        "cut short before its index": whole[:-200],
        "cut short in its frames": bytes(index_first(whole)[:-200]),
        "damaged frames": bytes(indexed),
    }
    line = f"--output {home.folder}/o.csv --every 20 --input"
    for name, data in files.items():
        yield name, home.combine(f"{line} {home.write('in.mp4', data)}")
    os.mkfifo(home.folder / "fifo.mp4")
    yield "a FIFO", home.combine(f"{line} {home.folder}/fifo.mp4")
    yield "no such file", home.combine(f"{line} {home.folder}/none.mp4")
    for name, (height, width) in (("small", (16, 64)), ("large", (5002, 8000))):
        path = write_clip(home.folder / f"{name}.avi", [np.zeros((height, width, 3), np.uint8)])
        yield f"{width} x {height} pixels", home.combine(f"{line} {path}")
    yield "--output names the video", home.combine(f"--input {path} --output {path}")
    photo = home.write("photo.png", file("PNG"))
    yield "--every with a photo", home.combine(f"{line} {photo}")


SECTIONS: dict[str, Callable[[Home], Rows]] = {
    "Photos that are refused": refused_photos,
    "Odd photos with one fixed meaning": odd_photos,
    "Photos without a good face: combine.py --probs": faces,
    "Names and kinds of files: combine.py --input": file_names,
    "Permissions": permissions,
    "Files that change or can't be written": changing_files,
    "train.csv": training_tables,
    "info.csv and --labels: combine.py": eval_tables,
    "Checkpoints": checkpoints,
    "Training": trainings,
    "Prediction: combine.py": predictions,
    "Videos: combine.py --input": videos,
}


def read_sections() -> dict[str, dict[str, str]]:
    """The sections of bad_inputs.md; rows are input → what it gets."""
    parts = re.split(r"^## ", TABLE.read_text(), flags=re.M)[1:] if TABLE.exists() else []
    return {
        part.partition("\n")[0]: dict(re.findall(r"^\| (.*?) \| (.*) \|$", part, re.M)[1:])
        for part in parts
    }


def write_sections(sections: dict[str, dict[str, str]]) -> None:
    text = HEAD
    for title in SECTIONS:
        rows = "".join(f"| {name} | {got} |\n" for name, got in sections.get(title, {}).items())
        text += f"\n## {title}\n\n| input | what it gets |\n|---|---|\n{rows}"
    TABLE.write_text(text)


@pytest.mark.parametrize("title", SECTIONS)
def test_bad_input_gets_what_the_table_says(
    title: str, models: Path, quoted: Path, tmp_path: Path
) -> None:
    found = dict(SECTIONS[title](Home(tmp_path, models, quoted)))
    sections = read_sections()
    if "WRITE_TABLE" in os.environ:
        write_sections(sections | {title: found})
    assert found == read_sections()[title]
