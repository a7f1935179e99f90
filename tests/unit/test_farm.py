"""The farm around Ray: jobs, graphs, the manifest, packing, what is told."""

from __future__ import annotations

import json
import time

import pytest
from farm_runs import stub_graph

from distill3d.farm.checks import checked
from distill3d.farm.errors import FarmError
from distill3d.farm.graph import Graph, read_graph, slug
from distill3d.farm.jobs import read_jobs
from distill3d.farm.manifest import DONE, FILE, RECORDS, Manifest, write_record
from distill3d.farm.packing import CONTEXT, Packing
from distill3d.farm.progress import clock
from distill3d.farm.report import summary, write_sheets, write_table
from distill3d.farm.store import Folder, Remote, open_store
from distill3d.farm.worker import Options, Worker


@pytest.fixture
def quickstart():
    return read_graph("quickstart")


def rows_of(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_jobs(path)


def test_a_text_file_is_a_prompt_a_line(tmp_path):
    rows = rows_of(tmp_path, "jobs.txt", "a red mug\n\n# not this\n  a blue chair \n")
    assert [(row.line, row.values) for row in rows] == [
        (1, {"prompt": "a red mug"}), (4, {"prompt": "a blue chair"}),
    ]  # fmt: skip


def test_cells_and_objects_are_values_and_an_empty_cell_is_the_graphs_own(tmp_path):
    table = rows_of(tmp_path, "a.csv", '\ufeffprompt,seed\n"a mug, red",3\na chair,\n\n')
    assert [row.values for row in table] == [
        {"prompt": "a mug, red", "seed": "3"}, {"prompt": "a chair"},
    ]  # fmt: skip
    lines = rows_of(
        tmp_path, "a.jsonl", '{"prompt": "x", "seed": 3}\n{"prompt": "y", "seed": null}\n'
    )
    assert [row.values for row in lines] == [{"prompt": "x", "seed": 3}, {"prompt": "y"}]


def test_a_line_that_cannot_be_read_is_told_and_others_stay(tmp_path):
    rows = rows_of(tmp_path, "a.jsonl", '{"prompt": "x"}\n{"prompt": \n[1]\n{"prompt": "y"}\n')
    assert [bool(row.problem) for row in rows] == [False, True, True, False]
    rows = rows_of(tmp_path, "a.csv", "prompt\na, b\nc\n")
    assert "2 cells, but 1 columns" in rows[0].problem and not rows[1].problem


@pytest.mark.parametrize(
    "name, text, told",
    [("a.txt", "\n# only\n", "no job"), ("a.csv", "prompt,prompt\nx,y\n", "each once")],
)
def test_a_list_without_jobs_is_refused(tmp_path, name, text, told):
    with pytest.raises(FarmError, match=told):
        rows_of(tmp_path, name, text)


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("a m\xfcg".encode("cp1252"))
    with pytest.raises(FarmError, match="UTF-8"):
        read_jobs(tmp_path / "a.txt")
    with pytest.raises(FarmError, match="cannot be read"):
        read_jobs(tmp_path / "none.txt")


def jobs_of(tmp_path, graph, text):
    return checked(graph, graph.jobs(rows_of(tmp_path, "jobs.csv", text)))


def test_columns_set_inputs_by_title_and_name_as_the_graph_has_them(tmp_path, quickstart):
    (job,) = jobs_of(
        tmp_path, quickstart,
        "prompt,seed,optimize n steps.steps,View Prompts.view_dependent,Render Views.elevation\n"
        "a red mug,7,50,no,20\n",
    )  # fmt: skip
    assert not job.problem
    prompt = quickstart.filled(job.values)
    assert prompt["3"]["inputs"]["prompt"] == "a red mug"
    assert prompt["3"]["inputs"]["view_dependent"] is False
    assert prompt["7"]["inputs"]["seed"] == 7 and prompt["5"]["inputs"]["seed"] == 7
    assert prompt["7"]["inputs"]["steps"] == 50  # in place of Quality Preset's
    assert prompt["9"]["inputs"]["elevation"] == 20.0
    assert quickstart.nodes["3"]["inputs"]["prompt"] == "a red mug"
    assert quickstart.nodes["7"]["inputs"]["seed"] == 0


@pytest.mark.parametrize(
    "column, told",
    [
        ("colour", "is no input"), ("views", "is an input of several"),
        ("Mug.size", "no node 'Mug'"), ("Render Views.colour", "no input 'colour', but"),
    ],
)  # fmt: skip
def test_a_column_that_fits_no_input_is_told_before_anything(tmp_path, quickstart, column, told):
    if column == "views":
        quickstart = Graph("two", {
            id: {"class_type": "Views", "inputs": {"views": 2}, "_meta": {"title": id}}
            for id in ("A", "B")
        })  # fmt: skip
    with pytest.raises(FarmError, match=told):
        jobs_of(tmp_path, quickstart, f"{column}\n3\n")


def test_one_bad_line_is_told_and_the_others_unharmed(tmp_path, quickstart):
    jobs = jobs_of(
        tmp_path, quickstart,
        "prompt,seed\na red mug,0\na red dragon,0\na red mug,many\na red mug,0\na red mug,1\n",
    )  # fmt: skip
    assert [bool(job.problem) for job in jobs] == [False, True, True, True, False]
    assert "dragon" in jobs[1].problem
    assert "seed is 'many', expected a whole number" in jobs[2].problem
    assert "the same as line 2" in jobs[3].problem
    assert len({job.key for job in jobs}) == len({job.name for job in jobs}) == 5


def test_a_job_keeps_its_key_and_name_when_the_list_grows(tmp_path, quickstart):
    (before,) = jobs_of(tmp_path, quickstart, "prompt\na red mug\n")
    _, after = jobs_of(tmp_path, quickstart, "prompt,seed\na blue mug,4\na red mug,\n")
    assert (before.key, before.name) == (after.key, after.name)
    changed = Graph("other", quickstart.filled({"Optimize N Steps.views": 3}))
    (other,) = jobs_of(tmp_path, changed, "prompt\na red mug\n")
    assert other.key != before.key


def test_names_of_files_can_be_given(tmp_path, quickstart):
    jobs = jobs_of(
        tmp_path, quickstart,
        "name,prompt\nmug_1,a red mug\n../mug,a blue mug\nmug_1,a pink mug\n",
    )  # fmt: skip
    assert jobs[0].name == "mug_1" and not jobs[0].problem
    assert "letters, digits" in jobs[1].problem and "line 2 already" in jobs[2].problem
    assert slug("A red mug, with \N{SNOWMAN} stripes!") == "a-red-mug-with-stripes"


def test_a_graph_of_the_page_or_of_nothing_is_refused(tmp_path):
    for text, told in (
        ('{"nodes": [], "links": []}', "Export"), ("{}", "API form"), ("[", "no JSON"),
    ):  # fmt: skip
        (tmp_path / "graph.json").write_text(text)
        with pytest.raises(FarmError, match=told):
            read_graph(str(tmp_path / "graph.json"))
    with pytest.raises(FarmError, match=r"nor a shipped graph: .*quickstart"):
        read_graph("quickstrat")


def test_a_servers_word_on_types_bounds_and_choices_is_heeded(tmp_path):
    graph = Graph("small", {"1": {"class_type": "Box", "inputs": {"size": 3, "form": "cube"}}})
    box = {"required": {"size": ["INT", {"min": 1, "max": 9}], "form": [["cube", "ball"], {}]}}
    rows = rows_of(tmp_path, "jobs.csv", "size,form\n3,cube\n10,cube\n2,cone\n")
    found = checked(graph, graph.jobs(rows), {"Box": {"input": box}})
    assert [job.problem for job in found] == [
        "", "Box.size is 10, which has to be from 1 to 9",
        "Box.form is 'cone'; choose one of cube, ball",
    ]  # fmt: skip
    assert "no node 'Box'" in checked(graph, graph.jobs(rows), {})[0].problem


def entry(key, status=DONE, **more):
    return {
        "key": key,
        "name": f"n-{key}",
        "line": int(key),
        "status": status,
        "seconds": 1.0,
    } | more


def test_what_workers_recorded_counts_whenever_the_driver_died(tmp_path):
    store = Folder(tmp_path)
    manifest = Manifest(store)
    manifest.load()
    write_record(store, entry("1"))
    manifest.add(entry("1"))
    manifest.flush(now=True)
    assert not store.names(RECORDS)
    write_record(store, entry("2"))  # and the driver is killed before it hears of it
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes() + b'{"key": "3", "sta')
    again = Manifest(store)
    again.load()
    assert again.states == {"1": DONE, "2": DONE}
    again.flush(now=True)
    lines = (tmp_path / FILE).read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["1", "2"]
    assert not store.names(RECORDS)


def test_a_full_disk_loses_no_record(tmp_path, full_disk):
    store = Folder(tmp_path)
    manifest = Manifest(store)
    for key in ("1", "2"):
        write_record(store, entry(key, prompt="x" * 2000))
        manifest.add(entry(key, prompt="x" * 2000))
    with full_disk(3000), pytest.raises(OSError):
        manifest.flush(now=True)
    assert store.names(RECORDS) == ["1.json", "2.json"]
    manifest.flush(now=True)
    assert len((tmp_path / FILE).read_text().splitlines()) == 2 and not store.names(RECORDS)


def test_ten_thousand_finished_jobs_are_found_again_in_five_seconds(tmp_path, quickstart):
    prompts = [f"a red mug,{seed}" for seed in range(10_000)]
    text = "\n".join(["prompt,seed", *prompts, ""])
    jobs = jobs_of(tmp_path, quickstart, text)
    store = Folder(tmp_path)
    manifest = Manifest(store)
    for job in jobs[:-1]:
        files = [
            {"name": f"{job.name}{end}", "bytes": 1, "blake2b": "0" * 32}
            for end in (".ply", ".glb")
        ]
        manifest.add(entry("1") | {"key": job.key, "files": files, "settings": job.values})
    manifest.flush(now=True)
    start = time.process_time()  # of this process: others may crowd the machine
    jobs = jobs_of(tmp_path, quickstart, text)
    manifest = Manifest(store)
    manifest.load()
    left = [job for job in jobs if manifest.states.get(job.key) != DONE]
    seconds = time.process_time() - start
    assert len(left) == 1 and seconds < 5


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_stores_read_what_they_wrote(tmp_path, kind):
    if kind == "memory":
        pytest.importorskip("fsspec")
    store = open_store(str(tmp_path / "out") if kind == "folder" else f"memory://{tmp_path.name}")
    assert isinstance(store, Folder if kind == "folder" else Remote)
    assert store.names("a") == [] and store.mark("a") == ()
    store.write("a/b", b"1")
    before = store.mark("a")
    (tmp_path / "file").write_bytes(b"22")
    store.put(tmp_path / "file", "a/b")
    assert store.read("a/b") == b"22" and store.names("a") == ["b"] and store.mark("a") != before
    store.get("a/b", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"22"
    store.remove("a")
    store.remove("a")
    assert store.names("a") == []
    with pytest.raises(FileNotFoundError):
        store.read("a/b")


@pytest.fixture
def worker(tmp_path):
    (tmp_path / "scratch").mkdir()
    store = Folder(tmp_path / "out")
    store.write(".farm/place", b"here")
    options = Options(store.address, "here", "stub", scratch=str(tmp_path / "scratch"))
    return Worker(options, 1)


def stub_job(tmp_path, prompt="x", **inputs):
    graph = Graph("stub", stub_graph(steps=2, seconds=0))
    rows = rows_of(tmp_path, "jobs.jsonl", json.dumps({"prompt": prompt, **inputs}) + "\n")
    (job,) = graph.jobs(rows)
    return job, graph.filled(job.values)


def test_a_worker_puts_files_then_a_record_and_does_nothing_twice(tmp_path, worker):
    job, prompt = stub_job(tmp_path)
    assert worker.start()["number"] == 1
    first = worker.run(job, prompt, 1)
    assert first["status"] == DONE and first["files"][0]["name"] == f"{job.name}.txt"
    assert (tmp_path / "out" / f"{job.name}.txt").is_file()
    assert not list((tmp_path / "out" / ".farm" / "autosaves").rglob("*.*"))
    assert worker.run(job, prompt, 2) == first
    worker.stop()
    assert not list((tmp_path / "scratch").iterdir())


def test_a_worker_on_a_machine_that_sees_another_folder_says_so(tmp_path, worker):
    (tmp_path / "out" / ".farm" / "place").write_text("elsewhere")
    with pytest.raises(RuntimeError, match="does not see OUT"):
        worker.start()


def test_a_full_disk_is_not_the_jobs_fault(tmp_path, worker, monkeypatch):
    job, prompt = stub_job(tmp_path)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(worker.store, "put", refuse)
    assert worker.run(job, prompt, 1)["status"] == "disk"


def test_workers_are_added_while_that_pays_and_memory_holds_them():
    packing, peak = Packing(memory=140 << 30), 2 << 30
    seen = []
    while not packing.settled:
        seen.append(packing.count)
        packing.measured(1000 * min(packing.count, 5.5), peak)
    assert seen == [1, 2, 3, 4, 6, 9] and packing.count == 6
    small = Packing(memory=3 * (peak + CONTEXT))
    while not small.settled:
        small.measured(1000.0 * small.count, peak)
    assert small.count == 2  # three fill it to the last byte
    slower = Packing(memory=140 << 30)
    slower.measured(1000.0, peak)
    assert slower.measured(900.0, peak) == 1 and slower.settled


def test_table_sheet_and_summary_name_what_there_is(tmp_path):
    from PIL import Image

    store, entries = Folder(tmp_path), []
    for key in range(1, 4):
        Image.new("RGB", (64, 32), "red").save(tmp_path / f"{key}.webp")
        files = [{"name": f"{key}.glb"}, {"name": f"{key}.webp"}]
        entries.append(entry(str(key), prompt="a red mug " * 9, files=files))
    (tmp_path / "3.webp").unlink()
    entries.append(entry("4", "failed", error="no\nmore", prompt="a dragon"))
    write_table(store, entries)
    assert "1.glb 1.webp" in (tmp_path / "table.csv").read_text().splitlines()[1]
    (tmp_path / "tmp").mkdir()
    (name,) = write_sheets(store, entries, tmp_path / "tmp")
    with Image.open(tmp_path / name) as sheet:
        assert sheet.width == 3 * 192
        assert sheet.getpixel((96, 96))[0] > 200 > sheet.getpixel((96, 96))[1]
        assert min(sheet.getpixel((2 * 192 + 96, 96))) > 240  # gone: an empty tile
    told = summary(entries, 5)
    assert "3 of 5 objects are made" in told and "line 4, 'a dragon': no" in told
    assert clock(3723) == "1:02:03" and clock(63) == "1:03"


def test_without_ray_the_group_that_brings_it_is_named(tmp_path, monkeypatch):
    import sys

    from distill3d.farm.errors import needed

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FarmError, match=r'pip install "ray\[default\]==2.60'):
        needed("ray")


def test_the_clones_own_folder_is_no_place_to_import_from(tmp_path, monkeypatch):
    import sys

    from distill3d.farm.worker import ROOT, leave_root

    monkeypatch.setattr(sys, "path", ["", str(ROOT), str(tmp_path)])
    monkeypatch.chdir(ROOT)
    leave_root()
    assert sys.path == [str(tmp_path)]


def test_a_driver_whose_disk_is_full_says_so_once_and_goes_on(capsys):
    from distill3d.farm.progress import Progress

    def refuse():
        raise OSError(28, "No space left on device")

    bar = Progress(2)
    for _ in range(3):
        bar.attempt(refuse)
    bar.ended(entry("1", seconds=1.0))
    bar.close()
    told = capsys.readouterr().err
    assert told.count("No space left") == 1 and "1/2" in told and "objects/h" in told


def test_two_farms_do_not_work_in_one_folder_at_a_time(tmp_path):
    from distill3d.farm.run import _alone

    fcntl = pytest.importorskip("fcntl")
    with _alone(Folder(tmp_path)):
        with (tmp_path / ".farm" / "lock").open("a") as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(FarmError, match="another farm works"), _alone(Folder(tmp_path)):
            pass
    (tmp_path / "file").write_text("")
    with pytest.raises(FarmError, match="cannot be written to"), _alone(Folder(tmp_path / "file")):
        pass
    with pytest.raises(PermissionError), _alone(Folder(tmp_path)):
        raise PermissionError("of what runs inside")
