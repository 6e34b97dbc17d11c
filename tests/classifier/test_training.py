import pytest

from scripts.classifier.training import check_validated
from scripts.common.problems import UserError


def test_weights_that_validation_chooses_need_one_and_the_last_ones_none():
    check_validated(epochs=5, val_interval=5)
    check_validated(epochs=2, val_interval=5, keep="last")
    with pytest.raises(UserError, match="val_interval 5 is more than epochs 2"):
        check_validated(epochs=2, val_interval=5)


def test_patience_that_ends_before_the_next_validation_is_refused():
    check_validated(epochs=20, val_interval=5, patience=5)
    with pytest.raises(UserError, match="patience 4 is less than val_interval 5"):
        check_validated(epochs=20, val_interval=5, patience=4)
