"""What a page may ask of a running Optimize: pictures of its cloud, and to stop and keep it. All
without a page.
"""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request

import plyfile
import pytest
from harness import prompts

from distill3d.kernels.files.compact import unpack

STEPS = 100_000  # more than any test waits for


def request(server, path: str, method: str = "GET", body: object = None) -> tuple[int, bytes]:
    """Status and body."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    data = None if body is None else json.dumps(body).encode()
    try:
        with opener.open(
            urllib.request.Request(server.url + path, data, method=method), timeout=60
        ) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def events(run, name: str) -> list[dict]:
    return [message["data"] for _, message in run.events if message["type"] == f"distill3d.{name}"]


def shown(server, run, node: str):
    """The cloud, and what is said about it, that a finished node left for its viewer."""
    (record,) = (
        file for file in run.files if file["node"] == node and file["filename"].endswith(".d3d")
    )
    return unpack(server.view(record))


def test_a_run_that_nobody_watches_sends_no_pictures_and_leaves_one_for_later(
    comfyui, quickstart, quickstart_prompt
):
    (optimize,) = prompts.of_type(quickstart_prompt, "Distill3D_Optimize")
    assert [event["node"] for event in events(quickstart, "start")] == [optimize]
    assert not events(quickstart, "frame")
    assert [event["node"] for event in events(quickstart, "end")] == [optimize]
    cloud, about = shown(comfyui, quickstart, optimize)
    steps = quickstart_prompt[optimize]["inputs"]["steps"]
    assert (about["step"], about["steps"], about["stopped"], len(about["losses"])) == (
        steps,
        steps,
        False,
        steps,
    )
    ply = plyfile.PlyData.read(io.BytesIO(comfyui.fetch(quickstart, ".ply")))["vertex"]
    assert len(cloud) == about["count"] == ply.count
    assert abs(cloud.means[:, 1].numpy() + ply["y"]).max() < 1e-3  # files are Y down


def test_pictures_come_when_asked_for_and_stop_and_keep_lets_the_graph_go_on(
    comfyui, quickstart, quickstart_prompt
):
    (optimize,) = prompts.of_type(quickstart_prompt, "Distill3D_Optimize")
    seen: list[dict] = []
    stopped: list[bool] = []

    def watch(run):
        if not run.progress(optimize) or stopped:
            return
        status, body = request(
            comfyui, f"/distill3d/live/{optimize}?after={seen[-1]['step'] if seen else 0}"
        )
        assert status in (200, 204)
        if status == 200:
            cloud, about = unpack(body)
            assert len(cloud) == about["shown"] > 100
            seen.append(about)
        if len(seen) == 3:
            assert list(comfyui.get("/distill3d/live")) == [optimize]
            assert request(comfyui, f"/distill3d/stop/{optimize}", "POST")[0] == 200
            stopped.append(True)

    before = set((comfyui.output / "distill3d").glob("quickstart_*"))
    run = comfyui.run(
        prompts.with_seed(prompts.with_steps(quickstart_prompt, STEPS), 11), on_event=watch
    )
    assert run.status == "success", run.error

    steps = [about["step"] for about in seen]
    assert steps == sorted(set(steps))
    assert {event["step"] for event in events(run, "frame")} >= set(steps)
    _, about = shown(comfyui, run, optimize)
    assert about["stopped"] and about["steps"] == STEPS
    assert steps[-1] <= about["step"] == len(about["losses"]) <= steps[-1] + 3
    made = set((comfyui.output / "distill3d").glob("quickstart_*")) - before
    assert {file.suffix for file in made} >= {".ply", ".glb"}
    # The kept cloud is the node's result: the same prompt is answered from the cache.
    prompt = prompts.with_seed(prompts.with_steps(quickstart_prompt, STEPS), 11)
    again = comfyui.run(prompt)
    assert again.status == "success" and not again.progress(optimize)

    # Until all steps are asked for, by this node with these inputs.
    def stop(run):
        if run.progress(optimize):
            request(comfyui, f"/distill3d/stop/{optimize}", "POST")

    inputs = prompt[optimize]["inputs"]
    assert (
        request(comfyui, f"/distill3d/anew/{optimize}", "POST", inputs | {"steps": STEPS + 1})[0]
        == 204
    )
    assert request(comfyui, "/distill3d/anew/none", "POST", inputs)[0] == 204
    assert not comfyui.run(prompt).progress(optimize)
    assert request(comfyui, f"/distill3d/anew/{optimize}", "POST", inputs)[0] == 204
    assert comfyui.run(prompt, on_event=stop).progress(optimize)
    assert not comfyui.run(prompt).progress(optimize)
    assert request(comfyui, f"/distill3d/anew/{optimize}", "POST", ["no object"])[0] == 400


def test_requests_about_nodes_that_do_not_run_find_nothing(comfyui, quickstart):
    assert comfyui.get("/distill3d/live") == {}
    assert request(comfyui, "/distill3d/live/7") == (204, b"")
    assert request(comfyui, "/distill3d/stop/7", "POST")[0] == 404
    assert request(comfyui, "/distill3d/stop/7")[0] in (404, 405)


@pytest.mark.parametrize("count", [1, 2500])
def test_preview_gaussians_leaves_the_cloud_for_its_viewer_and_nothing_in_the_output(
    comfyui, quickstart, count
):
    before = set(comfyui.output.rglob("*"))
    run = comfyui.run(
        {
            "1": {
                "class_type": "Distill3D_InitGaussians",
                "inputs": {"count": count, "radius": 0.6, "seed": 3, "scale": 0.03, "opacity": 0.5},
            },
            "2": {"class_type": "Distill3D_PreviewGaussians", "inputs": {"gaussians": ["1", 0]}},
        }
    )
    assert run.status == "success", run.error
    cloud, about = shown(comfyui, run, "2")
    assert len(cloud) == about["count"] == count
    assert set(comfyui.output.rglob("*")) == before
