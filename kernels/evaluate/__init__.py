"""What was made, measured: against the truth, by the judge, by CLIP; and what a loss sees and wants
of a view.
"""
