import numpy as np
import pandas as pd
import pytest
from planted_figure import infoenh_study

from tests.reporting.figures.panels import panels


class TestInfoEnhStudy:
    @pytest.fixture
    def tables(self):
        stages = pd.DataFrame({"seed": [0, 0, 1, 1], "stage": ["untrained", "trained"] * 2})
        cases = [("before", 0.9), ("push-forward", 0.8)]
        return {
            "selection": stages.assign(part="audio cue", kept=[0.2, 0.8, 0.3, 0.9], chance=0.1),
            "pairs": stages.assign(modality="audio", mass=[0.1, 0.2, 0.1, 0.3], chance=0.125),
            "signs": pd.concat(
                [
                    stages.assign(modality="audio", sign="positive", kept=[0.5, 1.0, 0.5, 0.1]),
                    stages.assign(modality="audio", sign="negative", kept=[0.5, 0.2, 0.5, 0.9]),
                ]
            ),
            "distance": pd.concat(
                stages.assign(
                    plan=plan, source="audio", target=target, cosine=value, discrepancy=value
                )
                for plan, value in cases
                for target in ("text", "vision")
            ),
        }

    @staticmethod
    def dots(axes):
        lines = [line for line in axes.lines if line.get_marker() != "None"]
        return {line.get_marker(): list(line.get_ydata()) for line in lines}

    def test_a_dot_a_seed_and_chance_beside_it(self, tables):
        kept = panels(infoenh_study(tables))["share of the informative tokens that is kept"]
        assert self.dots(kept) == {"s": [0.2, 0.3], "o": [0.8, 0.9]}
        (chance,) = (line for line in kept.lines if line.get_linestyle() == "--")
        assert list(chance.get_ydata()) == [0.1, 0.1]

    def test_the_sign_that_is_kept_more_stands_beside_the_other(self, tables):
        signs = panels(infoenh_study(tables))["cues kept, by their sign"]
        assert self.dots(signs) == {"o": [1.0, 0.9], "v": [0.2, 0.1]}

    def test_distances_are_means_over_pairs_of_the_trained_models(self, tables):
        distance = tables["distance"]
        distance.loc[distance["target"] == "text", "cosine"] += 0.1
        distance.loc[distance["stage"] == "untrained", "cosine"] = np.nan
        axes = panels(infoenh_study(tables))["mean cosine distance between modalities"]
        values = [list(line.get_ydata()) for line in axes.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(values, [[0.95, 0.95], [0.85, 0.85]])
        names = [label.get_text() for label in axes.get_xticklabels()]
        assert names == ["before", "push-\nforward"]
