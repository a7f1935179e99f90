"""Faults that are injected into real ComfyUI servers, what has to hold after each, and the report.

| module | faults |
|---|---|
| kills | the process ended at any moment, and inside every write |
| cancels | interrupts in every node, at every step, in the last step and after it |
| disks | full, read-only, faulty, slow, folders that go away |
| memory | the process may take no more |
| numbers | NaN in prior, loss and cloud |
| files | damaged files and workflows of every reader |
| others | two servers on one folder, two clients, long queues, /free, a clock that jumps |
| endurance | run after run in one server |
"""
