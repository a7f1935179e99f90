// Other people's viewers, each as a function of a file's address, a camera and a background: it draws and tells when done.

import * as THREE from "three";
import { GLTFLoader } from "three/addons/loaders/GLTFLoader.js";

const SETTLED = 3; // frames drawn after everything is there

/** A canvas of the page, of that size in pixels. */
function canvas_of(size) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [size, size];
  document.body.replaceChildren(canvas);
  return canvas;
}

/** three's camera from ours: world to camera, row by row; x right, y down, z forward. */
function camera_of({ viewmat, fov }) {
  const camera = new THREE.PerspectiveCamera(fov, 1, 0.05, 50);
  camera.matrixAutoUpdate = false;
  camera.matrix.set(...viewmat.flat()).invert().multiply(new THREE.Matrix4().makeScale(1, -1, -1));
  camera.updateMatrixWorld(true);
  return camera;
}

function set_up(renderer, view) {
  renderer.setPixelRatio(1);
  renderer.setSize(view.size, view.size, false);
  const scene = new THREE.Scene();
  scene.background = new THREE.Color().setRGB(view.background, view.background, view.background, THREE.SRGBColorSpace);
  return scene;
}

/** Splat files other than glTF hold Y down: half a turn about X, as their viewers ask for. */
function turned(thing) {
  thing.quaternion.set(1, 0, 0, 0);
  return thing;
}

export async function spark(url, view) {
  const { SparkRenderer, SplatMesh } = await import("@sparkjsdev/spark");
  const renderer = new THREE.WebGLRenderer({ canvas: canvas_of(view.size), preserveDrawingBuffer: true });
  const [scene, camera] = [set_up(renderer, view), camera_of(view)];
  const drawer = new SparkRenderer({ renderer });
  const splat = turned(new SplatMesh({ url }));
  scene.add(drawer, splat);
  await splat.initialized;
  for (let frame = 0; frame < view.frames; frame++) {
    renderer.render(scene, camera);
    await new Promise((done) => setTimeout(done, 100)); // a worker sorts meanwhile
  }
  return splat.packedSplats?.numSplats ?? splat.numSplats;
}

export async function three(url, view) {
  const { WebGPURenderer, LinearSRGBColorSpace } = await import("three/webgpu");
  const { GaussianSplat } = await import("three/addons/objects/GaussianSplat.js");
  const renderer = new WebGPURenderer({ canvas: canvas_of(view.size), forceWebGL: true });
  await renderer.init();
  renderer.outputColorSpace = LinearSRGBColorSpace; // its splats are shaded in display colours
  const [scene, camera] = [set_up(renderer, view), camera_of(view)];
  scene.background.setRGB(view.background, view.background, view.background);
  let splat;
  if (url.endsWith(".glb")) {
    const { GLTFGaussianSplatLoaderExtension } = await import("three/addons/loaders/GLTFGaussianSplatLoaderExtension.js");
    const loader = new GLTFLoader();
    loader.register((parser) => new GLTFGaussianSplatLoaderExtension(parser));
    splat = (await loader.loadAsync(url)).scene;
  } else {
    const name = { ply: "GaussianSplatPLYLoader", splat: "SPLATLoader", spz: "SPZLoader" }[url.split(".").at(-1)];
    const loader = new (await import(`three/addons/loaders/${name}.js`))[name]();
    splat = turned(new GaussianSplat(await loader.loadAsync(url)));
  }
  scene.add(splat);
  for (let frame = 0; frame < SETTLED; frame++) {
    await renderer.renderAsync(scene, camera);
  }
  let count = 0;
  splat.traverse((part) => (count += part.splatGeometry?.getAttribute("position").count ?? 0));
  return count;
}

/** The model with each of its materials replaced by what that gives. Tells how many triangles there are. */
function draw(model, view, material_of) {
  const renderer = new THREE.WebGLRenderer({ canvas: canvas_of(view.size), antialias: true, preserveDrawingBuffer: true });
  const [scene, camera] = [set_up(renderer, view), camera_of(view)];
  let count = 0;
  model.traverse((part) => {
    if (!part.isMesh) return;
    part.material = material_of(part.material);
    count += (part.geometry.index ?? part.geometry.getAttribute("position")).count / 3;
  });
  scene.add(model);
  renderer.render(scene, camera);
  return count;
}

/** Without lights: the colours of the file and nothing else. */
function draw_unlit(model, view) {
  return draw(model, view, ({ map, vertexColors, color, side }) =>
    new THREE.MeshBasicMaterial({ map, vertexColors, color, side }));
}

/** The directions that the surface faces, seen from the camera, as colours; with the file's normal map if it has one. */
function draw_normals(model, view) {
  return draw(model, view, ({ normalMap, normalScale }) => new THREE.MeshNormalMaterial({ normalMap, normalScale }));
}

/** Meshes as three's loaders understand them. */
export async function gltf(url, view) {
  return draw_unlit(await gltf_model(url), view);
}

export async function obj(url, view) {
  return draw_unlit(await obj_model(url), view);
}

export async function gltf_normals(url, view) {
  return draw_normals(await gltf_model(url), view);
}

export async function obj_normals(url, view) {
  return draw_normals(await obj_model(url), view);
}

async function gltf_model(url) {
  return (await new GLTFLoader().loadAsync(url)).scene;
}

async function obj_model(url) {
  const { OBJLoader } = await import("three/addons/loaders/OBJLoader.js");
  const { MTLLoader } = await import("three/addons/loaders/MTLLoader.js");
  const manager = new THREE.LoadingManager();
  const everything = new Promise((done) => (manager.onLoad = done)); // the picture, too
  const loader = new OBJLoader(manager);
  const text = await (await fetch(url)).text();
  const [, library] = text.match(/^mtllib (.+)$/m) ?? [];
  if (library) {
    const folder = url.slice(0, url.lastIndexOf("/") + 1);
    const materials = await new MTLLoader(manager).setPath(folder).loadAsync(library);
    materials.preload();
    loader.setMaterials(materials);
    await everything;
  }
  return loader.parse(text);
}

export async function ply(url, view) {
  const { PLYLoader } = await import("three/addons/loaders/PLYLoader.js");
  const geometry = await new PLYLoader().loadAsync(url);
  return draw_unlit(new THREE.Mesh(geometry, new THREE.MeshBasicMaterial({ vertexColors: true })), view);
}

export async function stl(url, view) {
  const { STLLoader } = await import("three/addons/loaders/STLLoader.js");
  const geometry = await new STLLoader().loadAsync(url);
  return draw_unlit(new THREE.Mesh(geometry, new THREE.MeshBasicMaterial({ color: view.plain })), view);
}
