"""The tied embedding shares a bucket of gradients with other parameters.

The distributed optimizer reduces and scatters each bucket over data-parallel ranks. The
embedding lies at another place of the bucket on the first stage than on the last, so
the sum over the pipeline's ends adds parts that are reduced to parts that are not.
"""

from ttrace.examples.bug_zoo.bug import Bug, place
from ttrace.examples.bug_zoo.megatron_options import DENSE, PP2, ZERO
from ttrace.ir.kinds import Kind

BUG = Bug(
    name="embedding_common_bucket",
    title="The tied embedding shares a bucket of the distributed optimizer",
    source="Megatron-LM #844",
    breaks="the main gradient of the word embedding",
    model=DENSE,
    layout=(*PP2, *ZERO),
    world_size=4,
    first_seen=(place("embedding.word_embeddings", Kind.MAIN_GRAD),),
    expected_code="replicas_differ",
)


def after_build(args, models):
    for model in models:
        for parameter in model.parameters():
            if hasattr(parameter, "shared_embedding"):
                del parameter.shared_embedding
