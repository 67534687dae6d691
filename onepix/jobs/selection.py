"""List the images that a rule chooses from a dataset."""

from onepix.config.base import Settings
from onepix.config.selection import Selection
from onepix.datasets.arrays import read_images
from onepix.datasets.selection import select
from onepix.files.atomic import replacing
from onepix.files.layout import name_of
from onepix.jobs.inputs import JsonText, Manifest, Output, read_settings


class SelectionJob(Settings):
    """Settings of the job."""

    images: Selection


def run(settings: JsonText, dataset: Manifest, output: Output) -> None:
    """Write the ids as text, one per line."""
    job = read_settings(SelectionJob, settings)
    images = read_images(dataset)
    ids = select(job.images, images.ids, images.labels, name_of(dataset))
    with replacing(output) as temporary:
        temporary.write_text("".join(f"{image_id}\n" for image_id in ids))
