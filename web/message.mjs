// What the server sends of a cloud: see kernels/files/compact.py, which says what each byte means.

const MARK = "D3D1";

/** {about, positions, quats, scales, rgba}: float32 xyz, wxyz and linear scales, uint8 colours, one after the other. */
export function decode(buffer) {
  const bytes = new Uint8Array(buffer);
  if (bytes.length < 8 || String.fromCharCode(...bytes.subarray(0, 4)) !== MARK) {
    throw new Error("this is no picture of a cloud");
  }
  const start = 8 + new DataView(buffer).getUint32(4, true);
  const about = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
  const n = about.shown;
  const places = new Uint16Array(buffer, start, 3 * n);
  const turns = new Int8Array(buffer, start + 10 * n, 4 * n);
  const sizes = new Uint8Array(buffer, start + 14 * n, 3 * n);
  const [first, last] = about.logs;
  const table = Float32Array.from({ length: 256 }, (_, i) => Math.exp(first + ((last - first) * i) / 255));
  const low = about.box.slice(0, 3);
  const step = low.map((value, axis) => (about.box[3 + axis] - value) / 65535);
  const positions = new Float32Array(3 * n);
  const scales = new Float32Array(3 * n);
  for (let i = 0; i < 3 * n; i++) {
    positions[i] = low[i % 3] + places[i] * step[i % 3];
    scales[i] = table[sizes[i]];
  }
  const quats = new Float32Array(4 * n);
  for (let i = 0; i < 4 * n; i += 4) {
    const length = Math.hypot(turns[i], turns[i + 1], turns[i + 2], turns[i + 3]) || 1;
    for (let k = i; k < i + 4; k++) quats[k] = turns[k] / length;
  }
  return { about, positions, quats, scales, rgba: new Uint8Array(buffer, start + 6 * n, 4 * n) };
}
