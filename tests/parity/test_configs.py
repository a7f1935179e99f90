"""Recipes set what the authors' own configuration files set: numbers/configs.json holds these, read
from clones by `recording.configs`.
"""

import json
from pathlib import Path

import pytest
from harness import recipes

CONFIGS = json.loads((Path(__file__).parent / "numbers" / "configs.json").read_text())
# What the authors fix in their code and name in no configuration file, by node: the other tests
# here hold the losses, cameras, penalties and growth to that code with these values.
IN_CODE = {
    "View Prompts": "prompt negative view_dependent interpolate perp_neg_weights perp_neg_from",
    "Init Gaussians": "radius opacity",
    "SDS Loss": "t_anneal",
    "CDS Loss": "pull shared_unconditional reduction",
    "VDM Loss": "t_min t_anneal shared_t weighting reduction",
    "ISM Loss": "t_min t_anneal shared_t weighting reduction first_step start_level noise_offset",
    "SCTD Loss": "t_min t_anneal shared_t weighting reduction first_step segments margin"
    " margin_above t_low_start t_low_end single_below noise_per_view noise_offset",
    "SDI Loss": "weighting t_anneal t_anneal_share t_random reduction first_level remap"
    " reverse_steps",
    "VSD Loss": "weighting t_anneal lora_rank lora_text",
    "Orbit Cameras": "overhead_share target_jitter sphere_share sphere_law azimuth_sectors"
    " shared_fov",
    "Learning Rates": "final_opacities",
    "Penalties": "lambda_opacity lambda_gamut lambda_bounds tv_kind",
    "Mesh Penalties": "smoothness penalty_form",
    "Densification": "densify densify_grow prune_opacity strategy bounds split_opacity grow_first"
    " summed_views reset_opacity",
    "Run Options": "background sample_posterior judged_size flip_share",
    "Optimize N Steps": "seed",
    "Refine Mesh": "judged normal_axes lr_colors lr_vertices restart_schedule",
}


def node(title):
    name = title.partition(":")[0]
    return "Optimize N Steps" if name == "Optimize" else name


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_has_the_values_of_the_authors_configuration(name):
    each, known = recipes.recipe(name), CONFIGS[name]
    for title, values in known["values"].items():
        for input, value in values.items():
            found = each.values[title][input]
            if isinstance(value, str):
                assert found == value, (title, input, found, value)
            else:  # to the digits that a widget shows
                assert found == pytest.approx(value, rel=1e-3), (title, input, found, value)
            assert input not in each.ours[title], f"{title} {input} is not said to be theirs"


def test_every_value_said_to_be_theirs_comes_from_a_configuration_or_from_named_code():
    used = set()
    for name in recipes.names():
        each, known = recipes.recipe(name), CONFIGS[name]["values"]
        for title, values in each.values.items():
            for input in set(values) - each.ours[title] - known.get(title, {}).keys():
                assert input in IN_CODE.get(node(title), "").split(), (name, title, input)
                used.add((node(title), input))
    assert used == {(kind, input) for kind, names in IN_CODE.items() for input in names.split()}
