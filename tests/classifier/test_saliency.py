import numpy as np
import pandas as pd
import torch
from matplotlib.image import imread

from scripts.classifier.network import lesion_net
from scripts.classifier.pictures import _strongest
from scripts.classifier.predictions import Collected
from scripts.classifier.saliency import choose, looker, write_saliency

FRAME = pd.DataFrame(
    {
        "folder": list("abcdefg"),
        "probability": [0.1, 0.2, 0.3, 0.6, 0.7, 0.8, 0.9],
        "label": [1, 0, 0, 0, 0, 1, 1],
    }
)


def test_the_surest_and_the_wrongest_of_each_kind_are_chosen():
    chosen = [(kind, row.folder) for kind, row in choose(FRAME, each=2, threshold=0.5)]
    assert chosen == [
        ("surest positive", "g"), ("surest positive", "f"), ("surest negative", "b"), ("surest negative", "c"),
        ("missed", "a"), ("false alarm", "e"), ("false alarm", "d"),
    ]  # fmt: skip


def test_without_labels_nothing_is_called_wrong():
    chosen = choose(FRAME.assign(label=-1), each=1, threshold=0.5)
    assert [(kind, row.folder) for kind, row in chosen] == [("surest positive", "g"), ("surest negative", "a")]


def network_that_sees_bright_places():
    torch.manual_seed(0)
    network = lesion_net(widths=(8,), strides=(2,)).eval()
    network.features = torch.nn.Conv3d(1, 1, 2, stride=2)
    torch.nn.init.constant_(network.features.weight, 1.0)
    torch.nn.init.zeros_(network.features.bias)
    network.output = torch.nn.Linear(1, 2)
    network.output.weight.data = torch.tensor([[-1.0], [1.0]])
    return network


def test_it_looks_where_the_lesion_is():
    image = torch.zeros(1, 1, 16, 16, 8)
    image[..., 10:12, 4:6, 2:4] = 1
    weight = looker(network_that_sees_bright_places())(image)
    assert weight.shape == (16, 16, 8)
    assert weight.max() == 1
    assert np.all(np.abs(np.array(np.unravel_index(weight.argmax(), weight.shape)) - [10.5, 4.5, 2.5]) <= 0.5)
    assert weight[0, 12, 7] == 0


def test_a_picture_is_drawn_where_one_is_asked_for(tmp_path):
    predictions = Collected()
    predictions.frame = FRAME
    cases = [{"folder": name} for name in FRAME["folder"]]

    def transform(case):
        return case | {"image": torch.rand(1, 16, 16, 8, generator=torch.Generator().manual_seed(0))}

    common = {"spacing": [1, 1, 2], "threshold": 0.5, "device": torch.device("cpu")}
    network = network_that_sees_bright_places()
    write_saliency(network, cases, transform, predictions, tmp_path / "no.png", each=0, **common)
    assert list(tmp_path.iterdir()) == []
    write_saliency(network, cases, transform, predictions, tmp_path / "s.png", each=1, **common)
    assert imread(tmp_path / "s.png").std() > 0


def test_it_is_cut_where_the_network_looks_and_in_the_middle_where_nothing_drew_it():
    weight = np.zeros((8, 6, 4), np.float32)
    assert _strongest(weight).tolist() == [4, 3, 2]
    weight[1, 5, 0] = 0.5
    assert _strongest(weight).tolist() == [1, 5, 0]
