// A camera that goes around a point: where it is, and what mouse and fingers do to it.

const FRONT = { azimuth: 0.5, elevation: 0.3 }; // radians: front, one side and the top are in view
const SPEED = 0.008; // radians per pixel
export const FIELD = (40 * Math.PI) / 180; // of view, along the shorter side: that of the training cameras

export class Orbit {
  constructor() {
    this.radius = 0; // of what it looks at; 0: nothing yet
    this.reset();
  }

  /** Looks at a cloud from the front, unless it looks at one of about this size already. */
  fit(centre, radius) {
    const size = Math.max(radius, 1e-3);
    const ratio = this.radius ? size / this.radius : 0;
    if (ratio > 0.4 && ratio < 2.5) return;
    this.radius = size;
    this.centre = centre;
    this.reset();
  }

  reset() {
    this.target = [...(this.centre ?? [0, 0, 0])];
    this.distance = (1.3 * (this.radius || 0.6)) / Math.sin(FIELD / 2);
    Object.assign(this, FRONT);
  }

  turn(right, down) {
    this.azimuth -= right * SPEED;
    this.elevation = Math.min(Math.max(this.elevation + down * SPEED, -1.5), 1.5);
  }

  /** Moves by shares of the picture's shorter side. */
  move(right, down) {
    const size = 2 * this.distance * Math.tan(FIELD / 2);
    const [sa, ca, se, ce] = [Math.sin(this.azimuth), Math.cos(this.azimuth), Math.sin(this.elevation), Math.cos(this.elevation)];
    const across = [ca, 0, sa]; // the camera's right and down, in the frame of splat files: Y down, front -Z
    const along = [sa * se, ce, -ca * se];
    this.target = this.target.map((value, i) => value - size * (right * across[i] + down * along[i]));
  }

  zoom(factor) {
    const near = 0.05 * (this.radius || 0.6);
    this.distance = Math.min(Math.max(this.distance * factor, near), 400 * near);
  }

  get position() {
    const ce = Math.cos(this.elevation);
    return [
      this.target[0] + this.distance * Math.sin(this.azimuth) * ce,
      this.target[1] - this.distance * Math.sin(this.elevation),
      this.target[2] - this.distance * Math.cos(this.azimuth) * ce,
    ];
  }
}

/** Lets the element's pointers move the orbit; `changed` is called after each. The graph behind sees none of them. */
export function steer(element, orbit, changed) {
  const pointers = new Map();
  const stop = (event) => {
    event.preventDefault();
    event.stopPropagation();
  };
  const middle = () => {
    const all = [...pointers.values()];
    const [x, y] = [0, 1].map((axis) => all.reduce((sum, p) => sum + p[axis], 0) / all.length);
    return { x, y, spread: all.length > 1 ? Math.hypot(all[0][0] - all[1][0], all[0][1] - all[1][1]) : 0 };
  };
  const on = (name, act) => element.addEventListener(name, act, { passive: false });
  on("pointerdown", (event) => {
    stop(event);
    element.setPointerCapture?.(event.pointerId);
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  on("pointermove", (event) => {
    event.stopPropagation();
    if (!pointers.has(event.pointerId)) return;
    const before = middle();
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    const after = middle();
    const [dx, dy] = [after.x - before.x, after.y - before.y];
    if (pointers.size > 1 || event.buttons & 6 || event.shiftKey) {
      const box = element.getBoundingClientRect(); // the graph's zoom included
      const side = Math.min(box.width, box.height) || 1;
      orbit.move(dx / side, dy / side);
      if (before.spread && after.spread) orbit.zoom(before.spread / after.spread);
    } else {
      orbit.turn(dx, dy);
    }
    changed();
  });
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
    on(name, (event) => {
      event.stopPropagation();
      pointers.delete(event.pointerId);
    });
  }
  on("distill3d.wheel", ({ detail }) => {
    orbit.zoom(Math.exp(Math.min(Math.max(detail, -200), 200) * 0.0015));
    changed();
  });
  on("dblclick", (event) => {
    stop(event);
    orbit.reset();
    changed();
  });
  on("contextmenu", stop);
}
