"""What the authors' own configuration files set, in the terms of this pack's inputs: one entry a
recipe in numbers/configs.json, by node and input.
"""

import json
import math
import sys
from argparse import ArgumentParser

import yaml
from officials import NUMBERS, clone, commit, threestudio

FILE = NUMBERS / "configs.json"
WEIGHTINGS = {"sds": "1-abar", "uniform": "uniform"}
TRAINING = 1000  # noise steps


def of_threestudio(folder):
    with threestudio(folder) as load:
        orbit = cameras(load)
        for name, file, loss in (
            ("dreamfusion_sd", "dreamfusion-sd.yaml", dreamfusion),
            ("sdi_sd", "sdi.yaml", sdi),
            ("prolificdreamer_sd", "prolificdreamer.yaml", prolificdreamer),
        ):
            config = read(folder, file)
            data = config["data"]
            values = loss(config, config["system"]["guidance"], data)
            values["Orbit Cameras"] = orbit(data)
            values["Render Views"] = {
                "distance": data["eval_camera_distance"],
                "fov_y": data["eval_fovy_deg"],
            }
            keep(name, folder, "threestudio-project/threestudio", [file], values)


def of_consistent3d(folder):
    with threestudio(folder) as load:
        orbit = cameras(load)
        for suffix, long in (("", ""), ("_long", "-long")):
            files = [f"consistency-{s}{long}.yaml" for s in ("coarse", "refine", "texture")]
            coarse, refine, texture = (read(folder, file) for file in files)
            loss = refine["system"]["loss"]
            values = {
                "CDS Loss: coarse": cds(coarse),
                "CDS Loss: geometry": cds(refine),
                "CDS Loss: texture": cds(texture),
                "Orbit Cameras: coarse": orbit(coarse["data"]),
                "Orbit Cameras: later": orbit(refine["data"]),
                "Optimize: coarse": run(coarse),
                "Export Mesh": {
                    "resolution": refine["system"]["geometry"]["isosurface_resolution"]
                },
                "Refine Mesh: geometry": run(refine),
                "Refine Mesh: texture": run(texture),
                "Mesh Penalties": {
                    "lambda_laplacian": loss["lambda_laplacian_smoothness"],
                    "lambda_normal": loss["lambda_normal_consistency"],
                },
            }
            if not long:
                keep("scene_sd", folder, "sail-sg/Consistent3D", files[:1], {
                    "CDS Loss": values["CDS Loss: coarse"],
                    "Optimize N Steps": {k: v for k, v in run(coarse).items() if k != "image_size"},
                })  # fmt: skip
            keep(f"consistent3d_sd{suffix}", folder, "sail-sg/Consistent3D", files, values)


def of_luciddreamer(folder):
    values = gaussian_splatting(folder, "configs/hamburger.yaml", "ISM Loss")
    keep("luciddreamer_sd", folder, "EnVision-Research/LucidDreamer", ["hamburger.yaml"], values)
    ism = values.pop("ISM Loss")
    vdm = {name: ism[name] for name in ism if name not in ("gap", "gap_start", "stride")}
    keep(
        "dreammapping_sd", folder, "EnVision-Research/LucidDreamer", ["hamburger.yaml"],
        values | {"VDM Loss": vdm},
    )  # fmt: skip


def of_segmentdreamer(folder):
    values = gaussian_splatting(folder, "config/bagel.yaml", "SCTD Loss")
    for name in ("stride", "gap_start"):
        del values["SCTD Loss"][name]
    keep("segmentdreamer_sd", folder, "zjhJOJO/SegmentDreamer", ["bagel.yaml"], values)


def dreamfusion(config, guidance, data):
    loss = {
        "guidance": 1 + guidance["guidance_scale"],
        "weight": config["system"]["loss"]["lambda_sds"],
        "weighting": WEIGHTINGS[guidance["weighting_strategy"]],
        "t_min": TRAINING * guidance["min_step_percent"],
        "t_max_start": TRAINING * guidance["max_step_percent"],
        "t_max_end": TRAINING * guidance["max_step_percent"],
    }
    return {"SDS Loss": loss, "Optimize N Steps": run(config)}


def sdi(config, guidance, data):
    processor = config["system"]["prompt_processor"]
    loss = {
        "guidance": guidance["guidance_scale"],
        "weight": config["system"]["loss"]["lambda_sdi"],
        "t_max_start": TRAINING * guidance["max_step_percent"],
        "t_max_end": TRAINING * guidance["min_step_percent"],
        "inversion_guidance": guidance["inversion_guidance_scale"],
        "stride": TRAINING / guidance["inversion_n_steps"],
        "eta": guidance["inversion_eta"],
    }
    return {
        "View Prompts": {"perp_neg": float(processor["use_perp_neg"])},
        "SDI Loss": loss,
        "Optimize N Steps": run(config),
    }


def prolificdreamer(config, guidance, data):
    optimizer, steps = config["system"]["optimizer"], config["trainer"]["max_steps"]
    jump, high, low, _ = guidance["max_step_percent"]
    first = data["resolution_milestones"][0]
    loss = {
        "guidance": guidance["guidance_scale"],
        "weight": config["system"]["loss"]["lambda_vsd"],
        "t_min": TRAINING * guidance["min_step_percent"],
        "t_max_start": TRAINING * high,
        "t_max_end": TRAINING * low,
        "t_anneal_share": jump / steps,
        "lora_lr": optimizer["params"]["guidance"]["lr"],
        "lora_beta2": optimizer["args"]["betas"][1],
        "lora_eps": float(optimizer["args"]["eps"]),
    }
    both = {"schedule_steps": steps, "seed": config["seed"]}
    return {
        "VSD Loss": loss,
        "Optimize: small renders": both
        | {"steps": first, "views": data["batch_size"][0], "image_size": data["width"][0]},
        "Optimize: whole renders": both
        | {"steps": steps - first, "views": data["batch_size"][1], "image_size": data["width"][1]},
    }


def cds(config):
    guidance = config["system"]["guidance"]
    scale = guidance["guidance_scale"]
    _, start, end, _ = scale if isinstance(scale, list) else (0, scale, scale, 0)
    _, t_start, t_end, _ = guidance["cur_steps"]
    _, clip_start, clip_end, _ = guidance["grad_clip"]
    return {
        "guidance_start": 1 + start,
        "guidance_end": 1 + end,
        "weight": config["system"]["loss"]["lambda_sds"],
        "weighting": WEIGHTINGS[guidance["weighting_strategy"]],
        "t_start": t_start,
        "t_end": t_end,
        "t_min": TRAINING * guidance["min_step_percent"],
        "t_max": TRAINING * guidance["max_step_percent"],
        "gap": guidance["end_gap"],
        "perturb": guidance["perturb_factor"],
        "clip_start": clip_start,
        "clip_end": clip_end,
        "noise_groups": int(guidance["share_noise"]),
    }


def run(config):
    data = config["data"]
    return {
        "steps": config["trainer"]["max_steps"],
        "views": data["batch_size"],
        "image_size": data["width"],
        "seed": config["seed"],
    }


def cameras(load):
    """Orbit Cameras' inputs of a config's ``data``, with threestudio's defaults."""
    fields = load("threestudio.data.uncond").RandomCameraDataModuleConfig.__dataclass_fields__

    def orbit(data):
        def get(name):
            return data.get(name, fields[name].default if name in fields else None)

        low, high = get("elevation_range")
        near, far = get("camera_distance_range")
        narrow, wide = get("fovy_range")
        found = {
            "elevation_min": low, "elevation_max": high, "distance_min": near,
            "distance_max": far, "fov_y_min": narrow, "fov_y_max": wide,
            "position_jitter": get("camera_perturb"), "look_jitter": get("center_perturb"),
            "up_jitter": get("up_perturb"),
        }  # fmt: skip
        if get("use_n_views"):
            found["azimuth_sectors"] = get("n_views")
        return found

    return orbit


def gaussian_splatting(folder, file, loss):
    """LucidDreamer's configuration, and of those that grew out of it."""
    sys.modules.pop("arguments", None)  # the clone's before
    with clone(folder) as load:
        arguments, parser = load("arguments"), ArgumentParser()
        opts = yaml.safe_load((folder / file).read_text())
        groups = {}
        for name in ("GuidanceParams", "OptimizationParams", "GenerateCamParams"):
            groups[name] = getattr(arguments, name)(parser)
            groups[name].load_yaml(opts.get(name))
    guidance, training, orbit = groups.values()
    steps, radius = training.iterations, orbit.default_radius
    low, high = (90 - angle for angle in reversed(orbit.theta_range))
    values = {
        "View Prompts": {
            "prompt": guidance.text, "negative": guidance.negative,
            "perp_neg": float(guidance.perpneg),
        },
        "Init Gaussians": {"count": orbit.init_num_pts},
        loss: {
            "guidance": guidance.guidance_scale,
            "weight": guidance.lambda_guidance,
            "t_max_start": TRAINING * guidance.max_t_range,
            "t_max_end": TRAINING * guidance.t_range[1],
            "t_anneal_share": training.warmup_iter / steps,
            "gap": guidance.delta_t,
            "gap_start": guidance.delta_t_start,
            "stride": guidance.xs_delta_t,
        },
        "Orbit Cameras": {
            "elevation_min": low, "elevation_max": high,
            "distance_min": orbit.radius_range[0], "distance_max": orbit.radius_range[1],
            "fov_y_min": math.degrees(orbit.fovy_range[0]),
            "fov_y_max": math.degrees(orbit.fovy_range[1]),
            "position_jitter": orbit.jitter_center / 2, "look_jitter": orbit.jitter_target,
            "up_jitter": orbit.jitter_up,
            "widen_every": training.scale_up_cameras_iter,
        },
        "Learning Rates": {
            "lr_means": training.position_lr_init * radius,
            "final_means": training.position_lr_final / training.position_lr_init,
            "lr_scales": training.scaling_lr,
            "final_scales": training.scaling_lr_final / training.scaling_lr,
            "lr_quats": training.rotation_lr,
            "final_quats": training.rotation_lr_final / training.rotation_lr,
            "lr_opacities": training.opacity_lr,
            "lr_colors": training.feature_lr,
            "final_colors": training.feature_lr_final / training.feature_lr,
        },
        "Penalties": {
            "lambda_scale": training.lambda_scale,
            "lambda_tv_color": training.lambda_tv, "lambda_tv_depth": training.lambda_tv,
        },
        "Densification": {
            "densify_every": training.densification_interval,
            "densify_start": (training.densify_from_iter + 1) / steps,
            "densify_stop": (training.densify_until_iter - 1) / steps,
            "gradient_threshold": training.densify_grad_threshold,
            "split_scale": training.percent_dense * radius,
            "prune_scale": 0.1 * radius,
            "reset_every": training.opacity_reset_interval,
        },
        "Run Options": {"depth_share": training.as_latent_ratio},
        "Optimize N Steps": {
            "steps": steps, "views": guidance.C_batch_size, "image_size": orbit.image_h,
        },
        "Render Views": {"distance": radius, "fov_y": math.degrees(orbit.default_fovy)},
    }  # fmt: skip
    if hasattr(training, "grad_clip"):
        start, end, until = training.grad_clip
        values["Run Options"] |= {
            "clip_norm_start": start, "clip_norm_end": end, "clip_norm_share": until / steps,
        }  # fmt: skip
    return values


def read(folder, file):
    return yaml.safe_load((folder / "configs" / file).read_text())


def keep(recipe, folder, repository, files, values):
    known = json.loads(FILE.read_text()) if FILE.exists() else {}
    known[recipe] = {
        "repository": repository, "commit": commit(folder), "files": files, "values": values,
    }  # fmt: skip
    FILE.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
    print(f"configs of {recipe}: {sum(map(len, values.values()))} values")
