"""Writes docs/method/parity.md: what is held to the authors' own code, and how near it comes.

    python tests/parity/table.py

Runs the tests of this folder and takes the greatest differences they found; functions and commits
are those that the number files name.
"""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/method/parity.md"

# what, the settings with which it is theirs, the number files, the names under which tests note it
ROWS = [
    ("SDS", "of the recipe `dreamfusion_sd`", ["sds", "sds_clipped"]),
    ("SDS, as LucidDreamer", "guidance 7.5, `reduction` sum", ["sds_sum"]),
    ("CDS, coarse", "of `consistent3d_sd`", ["cds_coarse", "cds_coarse_schedule"]),
    ("CDS, refine", "the same", ["cds_refine", "cds_refine_schedule"]),
    ("CDS, texture", "the same", ["cds_texture", "cds_texture_schedule"]),
    (
        "CDS, schedules of the long stages",
        "of `consistent3d_sd_long`",
        ["cds_coarse_long_schedule", "cds_refine_long_schedule", "cds_texture_long_schedule"],
    ),
    ("ISM", "of `luciddreamer_sd`: gap 50 and all else", ["ism", "ism_late"]),
    ("ISM with Perp-Neg", "the same, `perp_neg_from` negative", ["ism_perp_neg"]),
    ("ISM, timesteps and gap", "of `luciddreamer_sd`", ["ism_timesteps"]),
    (
        "SCTD",
        "of `segmentdreamer_sd`: 5 segments and all else",
        ["sctd", "sctd_late", "sctd_low"],
    ),
    ("SCTD, timesteps and segments", "the same", ["sctd_timesteps"]),
    (
        "SDI",
        "of `sdi_sd`; their network is asked at step -99 first, a slip, ours at 0: only its answer"
        " is replayed",
        ["sdi"],
    ),
    ("SDI with Perp-Neg", "the same, guidance 7.5 and -7.5", ["sdi_perp_neg"]),
    ("VSD, for one answer of the LoRA", "of `prolificdreamer_sd`", ["vsd"]),
    ("VSD, highest step", "the same, of 25,000 steps", ["vsd_timesteps"]),
    ("CSD", "guidance 2, t_max 500, negative_end 0.5", ["csd"]),
    (
        "Perp-Neg's weights and text, LucidDreamer",
        "their weights are in single precision",
        ["perp_neg_luciddreamer", "perp_neg_luciddreamer_text"],
    ),
    (
        "Perp-Neg's weights and text, threestudio",
        "`perp_neg_weights` threestudio; in single precision there",
        ["perp_neg_threestudio", "perp_neg_threestudio_text"],
    ),
    ("perpendicular part", "", ["perpendicular"]),
    ("view words", "1,444 azimuths, three elevations: all the same", ["view_words"]),
    (
        "cameras of a batch",
        "azimuth_sectors 4, sphere_share 0.5, `sphere_law` consistent3d, the three jitters",
        ["cameras_consistent3d"],
    ),
    ("widening cameras", "`Widening()`", ["widening_cameras"]),
    ("depth picture", "", ["disparity"]),
    ("total variation", "`tv_kind` squared", ["total_variation"]),
    ("Laplacian of a mesh", "`penalty_form` consistent3d", ["mesh_laplacian"]),
    ("normal consistency", "`penalty_form` consistent3d", ["mesh_normal_consistency"]),
    ("learning rates", "`final_*` as end / start", ["learning_rates"]),
    (
        "a round of densification, a reset",
        "`split_opacity` kept, grow_first, grow_share 1, bounds 1000",
        ["densify"],
    ),
    ("MCMC: sharing a place", "", ["relocation"]),
    ("MCMC: a round and its noise", "", ["mcmc"]),
]
FILES = {
    "mesh_laplacian": "mesh_penalties",
    "mesh_normal_consistency": "mesh_penalties",
    "densify": "densify_luciddreamer",
}


def main():
    sys.path.insert(0, str(HERE))
    if pytest.main([str(HERE), "-q"]) != 0:
        sys.exit("The tests fail; the page stays as it is.")
    replay = sys.modules["replay"]
    noted = {name for name, _ in replay.MEASURED}
    told = {name for _, _, names in ROWS for name in names}
    assert noted <= told, noted - told
    lines = []
    for what, remark, names in ROWS:
        about = replay.Numbers(FILES.get(names[0], names[0])).about
        off = {
            kind: max(
                (
                    value
                    for (name, k), value in replay.MEASURED.items()
                    if k == kind and name in names
                ),
                default=None,
            )
            for kind in ("float64", "float32")
        }
        cells = ["equal" if off["float64"] is None else f"{off['float64']:.0e}"]
        cells.append("" if off["float32"] is None else f"{off['float32']:.0e}")
        peer = f"{about['repository']} {about['commit'][:7]}"
        lines.append(f"| {what} | {peer}: {about['function']} | {' | '.join(cells)} | {remark} |")
    text = PAGE.read_text()
    start, end = "<!-- table -->\n", "<!-- end of table -->"
    head, tail = text.split(start)[0], text.split(end)[1]
    table = [
        "| what | official function | float64 | float32 | with which settings |",
        "|---|---|---|---|---|",
        *lines,
    ]
    PAGE.write_text(head + start + "\n" + "\n".join(table) + "\n\n" + end + tail)


if __name__ == "__main__":
    main()
