// A canvas that draws one cloud with gsplat.js, when there is something new to draw.

import { Camera, Quaternion, Scene, Splat, SplatData, Vector3, WebGLRenderer } from "./gsplat.mjs";
import { FIELD, Orbit, steer } from "./orbit.mjs";

const CONTEXTS = 6; // browsers keep 8 to 16 WebGL contexts and take the oldest away without asking
const SETTLE = 700; // ms to go on drawing after a change: gsplat.js sorts in a worker, and is done some pictures later
const TURN = 0.5; // radians per second
const REVIVE = 1000; // ms before a context that the browser took is asked for again

const SORTING = 20_000; // ms that a new cloud's first sorting may take on a busy machine

const open = new Set(); // viewers with a context, the one drawn least recently first
const waiting = new Set(); // viewers that had to give theirs back before they had shown what they should

export class Viewer {
  constructor(canvas, changed = () => {}) {
    this.canvas = canvas;
    this.orbit = new Orbit();
    this.turning = false;
    this.drawn = 0; // pictures
    this.until = 0;
    this.visible = true;
    this.changed = changed;
    this.watcher = new IntersectionObserver((seen) => {
      this.visible = seen.at(-1).isIntersecting;
      if (!this.resting) this.wake();
    });
    this.sizes = new ResizeObserver(() => this.resting || this.wake());
    this.listen();
  }

  listen() {
    const { canvas } = this;
    steer(canvas, this.orbit, () => this.wake());
    canvas.addEventListener("webglcontextlost", (event) => {
      if (canvas !== this.canvas || !this.renderer) return; // given back by ourselves
      event.preventDefault();
      this.release();
      setTimeout(() => this.wake(), REVIVE);
    });
    this.watcher.observe(canvas);
    this.sizes.observe(canvas);
  }

  static get supported() {
    Viewer.known ??= Boolean(document.createElement("canvas").getContext("webgl2"));
    return Viewer.known;
  }

  /** Draws a decoded message from now on. */
  show(cloud) {
    this.cloud = cloud;
    this.stale = true;
    this.orbit.fit(cloud.about.centre, cloud.about.radius);
    this.wake();
  }

  turn(on) {
    this.turning = on;
    this.wake();
  }

  wake() {
    this.resting = false;
    waiting.delete(this);
    this.until = performance.now() + SETTLE;
    if (!this.frame && this.cloud) this.frame = requestAnimationFrame((now) => this.tick(now));
  }

  tick(now) {
    this.frame = 0;
    const elapsed = Math.min((now - (this.last ?? now)) / 1000, 0.2);
    this.last = now;
    if (!this.visible || !this.canvas.isConnected || !this.canvas.clientWidth) return; // wake() is called when it is
    if (this.turning) this.orbit.azimuth += elapsed * TURN;
    try {
      this.draw();
    } catch (error) {
      console.warn("Distill3D: the viewer cannot draw:", error);
      this.close();
      return;
    }
    if (this.turning || this.unsettled(now)) {
      this.frame = requestAnimationFrame((next) => this.tick(next));
    } else {
      this.last = undefined;
      for (const viewer of waiting) return viewer.wake();
    }
  }

  unsettled(now) {
    return this.stale || now < Math.max(this.until, this.sortedBy ?? 0);
  }

  draw() {
    this.open();
    const building = this.building;
    this.resize();
    this.update();
    const { camera, orbit } = this;
    const position = new Vector3(...orbit.position);
    const way = new Vector3(...orbit.target).subtract(position).normalize();
    camera.data.near = 0.02 * orbit.distance;
    camera.data.far = 100 * orbit.distance;
    camera.position = position;
    camera.rotation = Quaternion.FromEuler(new Vector3(Math.asin(-way.y), Math.atan2(way.x, way.z), 0));
    this.renderer.render(this.scene, camera);
    this.sorted(!building && this.building);
    this.drawn++;
    this.changed(this);
  }

  open() {
    open.delete(this);
    open.add(this); // now the last
    if (this.renderer) return;
    if (open.size > CONTEXTS) {
      const others = [...open].slice(0, -1);
      (others.find((viewer) => !viewer.frame) ?? others[0]).close();
    }
    this.canvas.style.backgroundImage = ""; // the still picture
    const background = this.canvas.style.background;
    this.renderer = new WebGLRenderer(this.canvas, []);
    this.canvas.style.background = background;
    this.scene = this.camera = undefined;
    this.stale = true;
  }

  /** Gives the WebGL context back. A still picture stays until the viewer is used, or has something new to show. */
  close() {
    if (!this.turning && this.unsettled(performance.now())) waiting.add(this);
    let still;
    try {
      this.renderer.render(this.scene, this.camera);
      still = this.canvas.toDataURL();
    } catch {
      // it cannot draw, and so rests without
    }
    this.release(still);
    this.resting = true;
  }

  /** Does without a context, and with a fresh canvas: one whose context was lost cannot have another. */
  release(still) {
    open.delete(this);
    this.watcher.disconnect();
    this.sizes.disconnect();
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    const { renderer } = this;
    if (this.scene) renderer?.dispose();
    this.renderer = this.scene = this.camera = undefined;
    renderer?.gl.getExtension("WEBGL_lose_context")?.loseContext();
    const fresh = this.canvas.cloneNode();
    if (still) fresh.style.background = `url(${still}) 0 0 / 100% 100%`;
    this.canvas.replaceWith(fresh);
    this.canvas = fresh;
    this.listen();
  }

  /** Goes on drawing for as long as the worker's answers come, and for the first one to a new scene. */
  sorted(fresh) {
    const { depthIndex } = this.renderer.renderProgram;
    const now = performance.now();
    if (fresh) this.sortedBy = now + SORTING;
    else if (depthIndex !== this.depthIndex) [this.sortedBy, this.until] = [0, now + SETTLE];
    this.depthIndex = depthIndex;
  }

  dispose() {
    waiting.delete(this);
    this.watcher.disconnect();
    this.sizes.disconnect();
    cancelAnimationFrame(this.frame);
    open.delete(this);
    if (this.scene) this.renderer?.dispose();
    this.renderer?.gl.getExtension("WEBGL_lose_context")?.loseContext();
    this.renderer = this.cloud = undefined;
  }

  resize() {
    const { canvas } = this;
    const density = Math.min(window.devicePixelRatio || 1, 2);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.max(16, Math.round(side * density)));
    if (this.camera && canvas.width === width && canvas.height === height) return;
    // gsplat.js reads the focal length only when it begins with a camera, and also gives it its size then.
    this.camera = new Camera();
    this.camera.data.fx = this.camera.data.fy = Math.min(width, height) / (2 * Math.tan(FIELD / 2));
    canvas.width = width;
    canvas.height = height;
    this.building = true;
  }

  /** Brings what is to be seen into the scene: into the old arrays where they are large enough and at hand. */
  update() {
    const data = this.splat?.data;
    const built = this.renderer.renderProgram.renderData;
    if (this.building && built?.dataChanged) this.building = false;
    if (!this.stale) return;
    const n = this.cloud.about.shown;
    if (!this.scene || n > data.vertexCount || 4 * n < data.vertexCount) {
      const room = Math.ceil((1.25 * n) / 1024) * 1024; // for what densification adds
      this.splat = new Splat(new SplatData(room, new Float32Array(3 * room), new Float32Array(4 * room), new Float32Array(3 * room), new Uint8Array(4 * room)));
      this.fill(this.splat.data);
      this.scene = new Scene();
      this.scene.addObject(this.splat);
      this.building = true;
      this.stale = false;
    } else if (!this.building && !data.detached) {
      this.fill(data);
      data.changed = true;
      built.markDirty(this.splat);
      this.stale = false;
    }
  }

  fill(data) {
    const { positions, quats, scales, rgba, about } = this.cloud;
    const n = about.shown;
    data.positions.set(positions);
    data.rotations.set(quats);
    data.scales.set(scales);
    data.colors.set(rgba);
    for (let i = n; i < data.vertexCount; i++) {
      // Spare rows: clear ones at the first Gaussian, so that they change nothing for the sorting either.
      data.positions.copyWithin(3 * i, 0, 3);
      data.rotations.set([1, 0, 0, 0], 4 * i);
      data.scales.fill(0, 3 * i, 3 * i + 3);
      data.colors.fill(0, 4 * i, 4 * i + 4);
    }
    this.until = performance.now() + SETTLE;
  }
}
