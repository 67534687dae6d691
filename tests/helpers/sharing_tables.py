"""What a table of sharing holds."""

COLUMNS = ["source", "target", "successes", "transfer", "transfer_low", "transfer_high", "moved", "moved_low"]
COLUMNS += ["moved_high", "images", "jaccard", "jaccard_low", "jaccard_high", "chance", "chance_low", "chance_high"]


def pairs(table):
    return table.set_index(["source", "target"])
