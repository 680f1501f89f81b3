"""Arithmetic and nothing else: arrays in, arrays out, no state.

`cpu` and `cuda` are twins: modules of the same names holding functions of the same names
and signatures, so that they can be read side by side.  Either one is a *device*: it offers
every name in `TABLE`, and nothing outside it asks which device it is.

Rules that every function of the table keeps:

- the caller allocates the outputs, which come last; inputs are not changed unless the
  name says so (optimisers change parameters and their own moments in place);
- pictures are ``(batch, height, width, channels)``, filters ``(kernel_height, kernel_width,
  channels / groups, out_channels)``, dense kernels ``(in, out)``, everything C-contiguous;
- all floating arrays of a call have one dtype, float32 or float64, and sums are kept in it or in a wider one;
- the order of every sum is fixed by the shapes, and on CUDA by the kind of GPU, never by the
  number of threads, so that results are bitwise repeatable;
- NaN and infinities propagate as IEEE 754 says; a correlation computed by tiles (`cpu.winograd`) may spread one over
  the outputs of the tiles that see it;
- nothing is validated: that is the work of `geometry` and of `gpuconv`.

A product with a Toeplitz matrix that is never stored
-----------------------------------------------------
The patch of pixels that one row of a filter sees is one contiguous run of ``kernel_width *
channels`` numbers, because channels come last.  The patch of the next output pixel is the
same run, moved on by ``stride * channels``.  The matrix of all patches of an image row,
whose product with the filters is the correlation, is therefore a *view* of the row: its
row stride is smaller than its row length, which is what makes it a Toeplitz matrix.
Forward, gradient by input and gradient by filters are all products with that view.
"""

# name: arguments in order.  The tests hold both twins to this table.
TABLE = {
    # correlate: y = activation(correlate2d(x, filters) + bias), and its gradients.  The gradients
    # take dy = dL/dy with the value y, and work with dz = dy * slope_from_value(y) on the fly.
    "correlate2d": "x filters bias geometry activation alpha y",
    "correlate2d_gradient_input": "dy y filters geometry activation alpha dx",
    "correlate2d_gradient_filters": "x dy y geometry activation alpha dfilters dbias",
    # correlate_pool: the same and max pooling after it in one, where `geometry.poolable`.  y, dy and winner are those
    # of the pooling; what lies between is never stored, and dz = 0 but for the winners.
    "correlate2d_max_pool2d": "x filters bias geometry activation alpha pool y winner",
    "correlate2d_max_pool2d_gradient_input": "dy y winner filters geometry activation alpha pool dx",
    "correlate2d_max_pool2d_gradient_filters": "x dy y winner geometry activation alpha pool dfilters dbias",
    # image: one picture without channels, continued beyond its edges by indices of rows and columns; -1 stands
    # for fillvalue.  The CPU computes it in every dtype.
    "correlate_image": "x rows columns fillvalue kernel y",
    # pool: winner holds the number of the winning cell in its window, row by row
    "max_pool2d": "x geometry y winner",
    "max_pool2d_gradient": "dy winner geometry dx",
    "average_pool2d": "x geometry y",
    "average_pool2d_gradient": "dy geometry dx",
    # pad: zeros around the picture, and the way back
    "zero_pad2d": "x top left y",
    "crop2d": "x top left y",
    # activation: arrays of any shape; softmax over the rows of a matrix
    "activate": "x activation alpha y",
    "activate_gradient": "x dy activation alpha dx",
    "relu": "x negative_slope max_value threshold y",
    "relu_gradient": "x dy negative_slope max_value threshold dx",
    "softmax": "x y",
    "softmax_gradient": "y dy dx",
    # dense: y = activation(x kernel + bias), and its gradients
    "dense": "x kernel bias activation alpha y",
    "dense_gradient_input": "dy y kernel activation alpha dx",
    "dense_gradient_kernel": "x dy y activation alpha dkernel dbias",
    # normalization: x as a matrix (rows, channels)
    "batch_moments": "x mean variance",
    "normalize": "x mean variance gamma beta epsilon y",
    "batch_normalization_gradient": "x mean variance gamma dy epsilon dx dgamma dbeta",
    "moving_average": "new momentum average",
    # loss: losses[i] of each row, and gradient = scale * d losses[i] / d first argument
    "softmax_cross_entropy": "logits targets scale losses gradient",
    "sparse_softmax_cross_entropy": "logits labels scale losses gradient",
    "cross_entropy": "probabilities targets scale losses gradient",
    "sparse_cross_entropy": "probabilities labels scale losses gradient",
    "mean_squared_error": "predictions targets scale losses gradient",
    "binary_cross_entropy": "probabilities targets scale losses gradient",
    "sigmoid_binary_cross_entropy": "logits targets scale losses gradient",
    # metric: one value of hits a row
    "sparse_accuracy": "predictions labels hits",
    "categorical_accuracy": "predictions targets hits",
    "binary_accuracy": "predictions targets threshold hits",
    # random: the mask is a function of (seed, stream, step, place), so it is never stored;
    # the gradient of dropout is dropout of the gradient
    "dropout": "x rate seed stream step y",
    # optimizer: over the flat buffer of all parameters.  regularize adds the gradient of the
    # L1 and L2 penalties of the regions ending at ends[i], and writes the penalty's value.
    "regularize": "parameters ends l1 l2 gradients penalty",
    "sgd": "gradients learning_rate momentum nesterov weight_decay parameters velocity",
    "adam": "gradients learning_rate beta_1 beta_2 epsilon step weight_decay parameters mean mean_square",
    "rmsprop": "gradients learning_rate rho momentum epsilon centered weight_decay "
    "parameters mean mean_square velocity",
    # data: rows of the data set by number, rows of outputs in their place, and sums that stay on the device
    "gather": "source order start batch",
    "put": "batch start rows",
    "sum_into": "values place totals",
    # memory
    "empty": "shape dtype",
    "zeros": "shape dtype",
    "from_host": "array",
    "to_host": "array",
    "copy": "source destination",
    "synchronize": "",
    # repetition: a function that makes calls of kernels, [(kernel, arguments), ...], so many times more, and lets other
    # arrays take the places of those lent
    "repetition": "calls lent",
}
