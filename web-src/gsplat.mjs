// What the viewer needs of gsplat.js; the loaders, the exporters and the controls stay out.
export { Camera, Quaternion, Scene, Splat, SplatData, Vector3, WebGLRenderer } from "gsplat";
