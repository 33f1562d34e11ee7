"""Which class is each method's optimizer?"""

import dadapt_dist as dd

CLASSES: dict[str, type[dd.LearningRateFree]] = {
    "prodigy": dd.Prodigy,
    "dadapt_adam": dd.DAdaptAdam,
    "dadapt_sgd": dd.DAdaptSGD,
    "dadapt_adagrad": dd.DAdaptAdaGrad,
    "dadapt_adan": dd.DAdaptAdan,
    "dadapt_lion": dd.DAdaptLion,
}
