// What the pack says on the page, in its language. English is where it is said; here is what it is in others.

import { app } from "../../scripts/app.js";

const ZH = {
  Turntable: "转台",
  "Turn the object round and round": "让物体不停旋转",
  Background: "背景",
  "Gray, white, black, or checks where nothing is": "空白处为灰、白、黑或棋盘格",
  Reset: "复位",
  "Look from the front again (or double-click)": "回到正面视角（或双击）",
  "Stop and keep": "停止并保留",
  "End this node after the step it is at and let the graph go on with the cloud so far":
    "在当前这一步之后结束此节点，工作流用目前的高斯云继续运行",
  "Run all steps": "运行全部步数",
  "Run this node anew and to its last step, instead of using the cloud that was kept":
    "从头运行此节点直到最后一步，而不使用保留的高斯云",
  "The cloud grows here while this node runs.": "此节点运行时，高斯云会在这里生长。",
  "Run the graph to see the cloud here.": "运行工作流后，可在此处查看高斯云。",
  "This browser has no WebGL 2, so the cloud cannot be shown here.": "此浏览器没有 WebGL 2，无法在此显示高斯云。",
  "starting ...": "正在启动……",
  "Stopping: this step is the last. The cloud is kept, and the graph goes on with it.":
    "正在停止：这是最后一步。高斯云会保留，工作流用它继续运行。",
  "Run uses this cloud as it is and does not continue it. Run all steps starts over.":
    "“运行”直接使用此高斯云，不会接着优化；“运行全部步数”会重新开始。",
  "Ended early; the cloud so far is in {0}": "提前结束；目前的高斯云在 {0}",
  "step {0} of {1}": "第 {0} 步，共 {1} 步",
  "stopped and kept": "已停止并保留",
  "{0} left": "剩余 {0}",
  "took {0}": "用时 {0}",
  "{0} Gaussian": "{0} 个高斯",
  "{0} Gaussians": "{0} 个高斯",
  "({0} drawn)": "（显示 {0} 个）",
  "{0} a step": "每步 {0}",
  "loss {0}": "损失 {0}",
  "loss {0} to {1}": "损失 {0} 至 {1}",
  "{0} ms": "{0} 毫秒",
  "{0} s": "{0} 秒",
  "{0} min": "{0} 分钟",
  "{0} h": "{0} 小时",
  "Show {0} advanced inputs": "显示 {0} 个高级输入",
  "Hide advanced inputs": "隐藏高级输入",
};

export function language() {
  return app.extensionManager?.setting.get("Comfy.Locale") ?? "en";
}

/** `text` in the page's language, with the values for {0}, {1}, ... */
export function say(text, ...values) {
  const said = (language() === "zh" && ZH[text]) || text;
  return said.replace(/\{(\d)\}/g, (_, place) => values[place]);
}
